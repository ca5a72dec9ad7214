//! A ticket as a QR code made of half blocks: one module is one column wide and half a line high.

use p2p_node::Ticket;
use qrcode::{Color, EcLevel, QrCode};

/// Light modules around the code, which readers need to find it (ISO/IEC 18004 asks for 4).
const QUIET: usize = 4;

/// The code of a ticket, at most `columns` wide, with its last line feed; `None` when it does not fit.
///
/// A ticket that is too long for that goes without its name first, which is a hint only, and then with fewer of its
/// addresses. `paint` makes it black on white whatever the colours of the terminal; without it, it is right on a dark one.
pub(crate) fn code(ticket: &Ticket, columns: usize, paint: bool) -> Option<String> {
    let mut shorter = ticket.clone();
    loop {
        // Upper case is the alphabet that QR codes write in 5.5 bits a character; reading a ticket ignores case.
        let text = shorter.to_string().to_ascii_uppercase();
        if let Ok(code) = QrCode::with_error_correction_level(text, EcLevel::L)
            && code.width() + 2 * QUIET <= columns
        {
            return Some(draw(&code.to_colors(), code.width(), paint));
        }
        match &mut shorter.file {
            Some(file) if !file.name.is_empty() => file.name.clear(),
            _ => {
                shorter.addrs.pop().filter(|_| !shorter.addrs.is_empty())?;
            }
        }
    }
}

fn draw(modules: &[Color], width: usize, paint: bool) -> String {
    let side = width + 2 * QUIET;
    let is_dark = |x: usize, y: usize| {
        let inside = |at: usize| at.checked_sub(QUIET).filter(|at| *at < width);
        matches!((inside(x), inside(y)), (Some(x), Some(y)) if modules[y * width + x] == Color::Dark)
    };
    let mut out = String::new();
    for y in (0..side).step_by(2) {
        if paint {
            out.push_str("\x1b[38;5;231;48;5;16m");
        }
        out.extend((0..side).map(|x| match (is_dark(x, y), y + 1 >= side || is_dark(x, y + 1)) {
            // Light is drawn, dark is left out.
            (false, false) => '█',
            (false, true) => '▀',
            (true, false) => '▄',
            (true, true) => ' ',
        }));
        out.push_str(if paint { "\x1b[0m\n" } else { "\n" });
    }
    out
}

#[cfg(test)]
mod tests {
    use p2p_node::{NodeId, PeerAddr, TicketFile, TicketKind};

    use super::*;

    fn ticket(addrs: u16, name: usize) -> Ticket {
        let addr = |port| PeerAddr { ip: std::net::Ipv6Addr::LOCALHOST.into(), port, file_port: 1 };
        let name = "x".repeat(name);
        let file = TicketFile { kind: TicketKind::File, hash: [7; 32], length: 1, name };
        Ticket { id: NodeId::from_bytes([1; 32]), addrs: (1..=addrs).map(addr).collect(), file: Some(file) }
    }

    /// Light modules, as the terminal shows them.
    fn light(text: &str) -> Vec<Vec<bool>> {
        let mut rows = Vec::new();
        for line in text.lines() {
            rows.push(line.chars().map(|c| matches!(c, '█' | '▀')).collect::<Vec<_>>());
            rows.push(line.chars().map(|c| matches!(c, '█' | '▄')).collect());
        }
        rows
    }

    #[test]
    fn what_is_drawn_is_the_code() {
        let ticket = ticket(2, 5);
        let expected = QrCode::with_error_correction_level(ticket.to_string().to_uppercase(), EcLevel::L);
        let expected = expected.unwrap();
        let drawn = light(&code(&ticket, 80, false).unwrap());
        let side = expected.width() + 2 * QUIET;
        assert_eq!((drawn.len(), drawn[0].len()), (side.next_multiple_of(2), side));
        for (at, module) in expected.to_colors().into_iter().enumerate() {
            let (x, y) = (at % expected.width() + QUIET, at / expected.width() + QUIET);
            assert_eq!(drawn[y][x], module == Color::Light, "{x} {y}");
        }
        assert!(drawn[..QUIET].iter().flatten().all(|light| *light));
        assert!(code(&ticket, 80, true).unwrap().starts_with("\x1b["));
    }

    #[test]
    fn the_longest_ticket_is_shortened_until_it_fits() {
        for (addrs, name) in [(0, 0), (1, 10), (8, 0), (8, 255), (0, 255)] {
            let text = code(&ticket(addrs, name), 80, false).unwrap();
            assert!(text.lines().all(|line| line.chars().count() <= 80), "{addrs} {name}");
        }
        assert_eq!(code(&ticket(1, 0), 40, false), None);
    }
}
