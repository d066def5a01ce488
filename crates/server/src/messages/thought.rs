//! Signatures of thinking blocks, and thinking that travels inside of one.
//!
//! A client must send thinking back unchanged; an empty signature makes some turn it into text. Ours says which
//! version made it and carries a hash of the text, or the text itself where the client did not want to see it.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

const HASHED: &str = "ds4h1:";
const CARRIED: &str = "ds4t1:";

/// The signature of thinking that the client sees.
pub fn sign(thinking: &str) -> String {
    let hash = blake3::hash(thinking.as_bytes()).to_hex();
    BASE64_STANDARD.encode(format!("{HASHED}{hash}"))
}

/// A signature that carries thinking which the client does not see.
pub fn carry(thinking: &str) -> String {
    BASE64_STANDARD.encode(format!("{CARRIED}{thinking}"))
}

/// The thinking that a signature of ours carries.
pub fn carried(signature: &str) -> Option<String> {
    let bytes = BASE64_STANDARD.decode(signature).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    text.strip_prefix(CARRIED).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinking_travels_in_its_signature() {
        assert_eq!(carried(&carry("wé")).as_deref(), Some("wé"));
        assert_eq!(carried(&sign("wé")), None);
        assert_eq!(carried("not ours"), None);
        assert!(!sign("").is_empty());
    }
}
