//! Passwords: what is kept of them, and whether one is right.

use argon2::Argon2;
use argon2::password_hash::{PasswordHash as Parsed, PasswordHasher, PasswordVerifier, SaltString};
use std::fmt;

/// The longest password, in bytes: nobody's is longer, and the time that it takes depends on it.
const LONGEST: usize = 1024;
/// The most that a hash of somebody else's making may ask for: memory in KiB, passes, and lanes.
const MOST: [(&str, u32); 3] = [("m", 256 << 10), ("t", 32), ("p", 16)];

/// A password as it is kept: hashed by Argon2id with a salt of its own, as a PHC string. The password cannot be found from it
/// other than by trying.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(String);

/// A password, or the hash of one, that is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PasswordError {
    /// RabbitMQ lets nobody in without a password, and neither does this.
    Empty,
    /// It has more than 1024 bytes.
    TooLong,
    /// It has a character 0, which the way of logging in that all clients have cannot transfer.
    HasZero,
    /// It is no hash that can be checked here.
    NotAHash,
}

impl fmt::Display for PasswordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the password is empty",
            Self::TooLong => "the password is longer than 1024 bytes",
            Self::HasZero => "the password has a character 0 in it",
            Self::NotAHash => "this is no Argon2 hash that can be checked here",
        })
    }
}

impl std::error::Error for PasswordError {}

impl PasswordHash {
    /// Hashes a password. Takes some 20 ms of processor time and 19 MiB of memory, on purpose; blocks for so long.
    ///
    /// # Errors
    /// It is empty, longer than 1024 bytes, or has a character 0.
    ///
    /// # Panics
    /// The system gives no random bytes.
    pub fn new(password: &str) -> Result<Self, PasswordError> {
        if password.is_empty() {
            return Err(PasswordError::Empty);
        }
        if password.len() > LONGEST {
            return Err(PasswordError::TooLong);
        }
        if password.contains('\0') {
            return Err(PasswordError::HasZero);
        }
        let mut salt = [0; 16];
        // As for names that cannot be guessed: without random bytes nothing is safe.
        getrandom::fill(&mut salt).expect("the system gives random bytes");
        let hashed = SaltString::encode_b64(&salt)
            .and_then(|salt| Argon2::default().hash_password(password.as_bytes(), &salt).map(|hash| hash.to_string()));
        hashed.map(Self).map_err(|_| PasswordError::NotAHash)
    }

    /// Takes a hash that was made before, as [`as_str`](Self::as_str) has it.
    ///
    /// # Errors
    /// It is not Argon2's, or checking it would cost more than 256 MiB or 32 passes.
    pub fn from_phc(text: &str) -> Result<Self, PasswordError> {
        let parsed = Parsed::new(text).map_err(|_| PasswordError::NotAHash)?;
        let is_known =
            parsed.algorithm.as_str().starts_with("argon2") && parsed.salt.is_some() && parsed.hash.is_some();
        let is_cheap =
            MOST.iter().all(|(name, most)| parsed.params.get_decimal(*name).is_none_or(|cost| cost <= *most));
        if is_known && is_cheap { Ok(Self(text.to_owned())) } else { Err(PasswordError::NotAHash) }
    }

    /// The PHC string.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the hash of this password. Takes as long as hashing.
    #[must_use]
    pub fn is_of(&self, password: &[u8]) -> bool {
        password.len() <= LONGEST
            && Parsed::new(&self.0).is_ok_and(|parsed| Argon2::default().verify_password(password, &parsed).is_ok())
    }

    /// A hash that no password has: so that a user who does not exist costs what one who does costs.
    pub(super) fn of_nobody() -> Self {
        Self(
            "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
                .to_owned(),
        )
    }
}

/// Without the hash: it is of use to whoever tries passwords.
impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(..)")
    }
}

/// By what a user is known.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::server) enum Credential {
    /// Nobody logs in as this user.
    None,
    /// A password that is no secret: everybody knows that of `guest`, and the program's own users are the program's matter.
    Known(String),
    Hashed(PasswordHash),
}

/// Compares in a time that does not depend on where the two differ.
pub(super) fn is_same(one: &[u8], other: &[u8]) -> bool {
    let difference =
        one.iter().zip(other).fold(one.len() ^ other.len(), |sum, (one, other)| sum | usize::from(one ^ other));
    difference == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_of_its_password_alone_and_shows_nothing_of_it() {
        let hash = PasswordHash::new("s3cret").expect("a hash");
        assert!(hash.is_of(b"s3cret"));
        for wrong in [&b"S3cret"[..], b"s3cre", b"s3cret ", b"", &[b'x'; LONGEST + 1]] {
            assert!(!hash.is_of(wrong), "{wrong:?}");
        }
        let long = [b'x'; LONGEST + 1];
        let salt = SaltString::encode_b64(&[1; 16]).expect("a salt");
        let hashed = Argon2::default().hash_password(&long, &salt).expect("hashed").to_string();
        assert!(!PasswordHash(hashed).is_of(&long), "it takes time in proportion to what a client sends");
        assert_ne!(hash, PasswordHash::new("s3cret").expect("a hash"), "each has its own salt");
        assert_eq!(PasswordHash::from_phc(hash.as_str()), Ok(hash.clone()));
        assert!(hash.as_str().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", hash.as_str());
        assert_eq!(format!("{hash:?}"), "PasswordHash(..)");
        assert!(!PasswordHash::of_nobody().is_of(b""));
        assert!(PasswordHash::from_phc(PasswordHash::of_nobody().as_str()).is_ok(), "it is checked as any other");
    }

    #[test]
    fn what_is_no_password_and_no_hash_is_refused() {
        assert_eq!(PasswordHash::new(""), Err(PasswordError::Empty));
        assert_eq!(PasswordHash::new(&"x".repeat(LONGEST + 1)), Err(PasswordError::TooLong));
        assert_eq!(PasswordHash::new("a\0b"), Err(PasswordError::HasZero));
        let hash = PasswordHash::new("x").expect("a hash").as_str().to_owned();
        for wrong in [
            "",
            "secret",
            "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA",
            "$pbkdf2-sha256$i=600000$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            &hash.replace("m=19456", "m=4194304"),
            &hash.replace("t=2", "t=4000000"),
        ] {
            assert_eq!(PasswordHash::from_phc(wrong), Err(PasswordError::NotAHash), "{wrong}");
        }
    }

    #[test]
    fn only_the_same_bytes_are_the_same() {
        for (one, other, same) in [
            ("", "", true),
            ("a", "a", true),
            ("a", "b", false),
            ("a", "ab", false),
            ("ab", "a", false),
            ("", "a", false),
        ] {
            assert_eq!(is_same(one.as_bytes(), other.as_bytes()), same, "{one} {other}");
        }
    }
}
