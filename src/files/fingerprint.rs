//! Fingerprints: hashes that tell whether content is what it was. They find changes and damage, not forgery.

use std::path::Path;

use super::read;
use crate::error::Result;

/// A hash of contents (FNV-1a), as text for records.
pub fn fingerprint(parts: &[&[u8]]) -> String {
    let step = |hash: u64, byte: &u8| (hash ^ *byte as u64).wrapping_mul(0x100_0000_01b3);
    format!("{:016x}", parts.iter().flat_map(|part| part.iter()).fold(0xcbf2_9ce4_8422_2325, step))
}

/// The fingerprint of a file's bytes.
///
/// Errors: as for [`read`].
pub fn of_file(path: &Path) -> Result<String> {
    read(path, "cannot read").map(|bytes| fingerprint(&[&bytes]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_differ() {
        assert_eq!(fingerprint(&[b"a", b"b"]), fingerprint(&[b"ab"]));
        assert_eq!(fingerprint(&[]), "cbf29ce484222325");
        assert_eq!(fingerprint(&[b"a"]), "af63dc4c8601ec8c");
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "a").unwrap();
        assert_eq!(of_file(&dir.path().join("file")).unwrap(), fingerprint(&[b"a"]));
    }
}
