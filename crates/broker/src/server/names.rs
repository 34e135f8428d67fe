//! Names that the server makes up. They cannot be guessed: a reply queue is protected by its name alone.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// `prefix` and 22 random characters.
pub(super) fn generate(prefix: &str) -> String {
    let mut random = [0; 16];
    // The system gives random bytes as long as it runs; without them no name would be safe.
    getrandom::fill(&mut random).expect("the system gives random bytes");
    let mut name = String::with_capacity(prefix.len() + 22);
    name.push_str(prefix);
    URL_SAFE_NO_PAD.encode_string(random, &mut name);
    name
}
