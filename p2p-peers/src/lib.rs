//! A sans-IO peer table: who is known, who to dial and when, who is alive.
