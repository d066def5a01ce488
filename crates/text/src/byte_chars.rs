//! The printable form of bytes that byte-level BPE vocabularies are written in.
//!
//! Every byte is one character: the printable ones of Latin-1 stand for themselves, the other 68,
//! in ascending order, are U+0100, U+0101 and so on. Source: `bytes_to_unicode` of GPT-2.

use std::sync::LazyLock;

/// The character that stands for each byte.
pub(crate) static CHAR_OF_BYTE: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut next = 0x100;
    std::array::from_fn(|byte| match byte as u8 {
        printable @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => char::from(printable),
        _ => {
            next += 1;
            char::from_u32(next - 1).expect("68 code points from U+0100 on are characters")
        }
    })
});

/// The byte that each character up to U+0143 stands for.
static BYTE_OF_CHAR: LazyLock<[Option<u8>; 0x144]> = LazyLock::new(|| {
    let mut bytes = [None; 0x144];
    for (byte, &c) in CHAR_OF_BYTE.iter().enumerate() {
        bytes[c as usize] = Some(byte as u8);
    }
    bytes
});

/// Appends the bytes that `token` stands for; false if it has a character that stands for none.
pub(crate) fn push_bytes(token: &str, bytes: &mut Vec<u8>) -> bool {
    token.chars().all(|c| {
        let byte = BYTE_OF_CHAR.get(c as usize).copied().flatten();
        bytes.extend(byte);
        byte.is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_character() {
        for byte in 0..=255 {
            let mut back = Vec::new();
            assert!(push_bytes(&CHAR_OF_BYTE[usize::from(byte)].to_string(), &mut back));
            assert_eq!(back, [byte]);
        }
        assert_eq!(CHAR_OF_BYTE[usize::from(b' ')], 'Ġ');
        assert_eq!(CHAR_OF_BYTE[usize::from(b'\n')], 'Ċ');
        assert_eq!(CHAR_OF_BYTE[0xAD], '\u{143}');
    }

    #[test]
    fn other_characters_stand_for_nothing() {
        for c in [' ', '\u{AD}', '\u{144}', '｜', '🦀'] {
            assert!(!push_bytes(&c.to_string(), &mut Vec::new()), "{c:?}");
        }
    }
}
