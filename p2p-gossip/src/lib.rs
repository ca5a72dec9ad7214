//! Sans-IO broadcast that delivers every message exactly once.
