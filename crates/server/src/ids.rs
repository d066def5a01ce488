//! Names for things: unguessable, since whoever knows the id of a call may have its text replayed.

use std::fmt::Write as _;

/// 128 random bits in hexadecimal, after a prefix.
pub fn fresh(prefix: &str) -> String {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).expect("the system has random numbers");
    let mut id = String::with_capacity(prefix.len() + 32);
    id.push_str(prefix);
    for byte in bytes {
        let _ = write!(id, "{byte:02x}");
    }
    id
}

/// The part of a call's id that we made, whatever a client put around it (`call_x|fc_y`): 32 hexadecimal digits
/// after one of our prefixes. An id that is not ours is returned as it is.
pub fn canonical_call(id: &str) -> &str {
    for prefix in ["call_", "toolu_"] {
        for (at, _) in id.match_indices(prefix) {
            let rest = &id[at + prefix.len()..];
            let digits = rest.bytes().take_while(u8::is_ascii_hexdigit).count();
            if digits == 32 {
                return &rest[..32];
            }
        }
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_known_by_its_digits() {
        let id = fresh("call_");
        let digits = &id[5..];
        assert_eq!(digits.len(), 32);
        for rewritten in [id.clone(), format!("{id}|fc_7"), format!("toolu_{digits}"), format!("x-{id}-y")] {
            assert_eq!(canonical_call(&rewritten), digits);
        }
        for foreign in ["call_1", "abc", "call_", &id[..36], &format!("{id}0")] {
            assert_eq!(canonical_call(foreign), foreign);
        }
        assert_ne!(fresh("x"), fresh("x"));
    }
}
