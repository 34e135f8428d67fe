//! Which names a permission is for.

use regex::{Regex, RegexBuilder};

/// The longest expression, in bytes.
const LONGEST: usize = 4096;
/// What an expression may have in memory, and what a search may, in bytes. One that repeats what repeats asks for more.
const SIZE: usize = 1 << 20;

/// The variables of an expression for routing keys.
const VARIABLES: [&str; 2] = ["{username}", "{vhost}"];

/// A regular expression that a name is compared with: a match anywhere in the name counts, and an empty expression matches
/// nothing, as RabbitMQ has it.
#[derive(Clone, Debug)]
pub(super) enum Pattern {
    Nothing,
    /// The empty string alone.
    Empty,
    Everything,
    Matching(Regex),
}

impl Pattern {
    /// # Errors
    /// Why it cannot be used, as a line.
    pub(super) fn new(expression: &str) -> Result<Self, String> {
        match expression {
            "" | "^$" => return Ok(Self::Nothing),
            ".*" => return Ok(Self::Everything),
            _ if expression.len() > LONGEST => return Err(format!("it is longer than {LONGEST} bytes")),
            _ => {}
        }
        Self::of(expression)
    }

    fn of(expression: &str) -> Result<Self, String> {
        let built = RegexBuilder::new(expression).size_limit(SIZE).dfa_size_limit(SIZE).build();
        built.map(Self::Matching).map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => "it takes too much memory".to_owned(),
            // The last line has the reason; those before it show the place in pictures.
            error => {
                let text = error.to_string();
                let reason = text.lines().last().unwrap_or_default().trim();
                reason.strip_prefix("error: ").unwrap_or(reason).to_owned()
            }
        })
    }

    /// An expression that routing keys are compared with. The names of the user and of the virtual host take the places of its
    /// variables, and mean themselves: a user named `.*` has no more rights than others. An empty expression matches the empty key.
    ///
    /// # Errors
    /// Why it cannot be used, as a line.
    pub(super) fn for_keys(expression: &str, user: &str, host: &str) -> Result<Self, String> {
        match expression {
            "" | "^$" => return Ok(Self::Empty),
            _ if expression.len() > LONGEST => return Err(format!("it is longer than {LONGEST} bytes")),
            _ => {}
        }
        let mut expanded = String::new();
        let mut rest = expression;
        // In one pass: what a name has in braces is no variable.
        while let Some(at) = rest.find('{') {
            expanded.push_str(&rest[..at]);
            rest = &rest[at..];
            let found = VARIABLES.into_iter().zip([user, host]).find(|(variable, _)| rest.starts_with(variable));
            let (length, text) =
                found.map_or((1, "{".into()), |(variable, name)| (variable.len(), regex::escape(name)));
            expanded.push_str(&text);
            rest = &rest[length..];
        }
        expanded.push_str(rest);
        Self::of(&expanded)
    }

    #[inline]
    pub(super) fn matches(&self, name: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::Empty => name.is_empty(),
            Self::Everything => true,
            Self::Matching(regex) => regex.is_match(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_match_anywhere_counts_and_an_empty_expression_matches_nothing() {
        for (expression, name, matches) in [
            ("", "q", false),
            ("^$", "q", false),
            (".*", "q", true),
            (".*", "two\nlines", true),
            ("q", "a queue", true),
            ("^q$", "qq", false),
            ("^(amq\\.gen.*|amq\\.default)$", "amq.default", true),
            ("^(amq\\.gen.*|amq\\.default)$", "amq.direct", false),
            ("(?i)QUEUE", "queue", true),
            ("^täst-[0-9]+$", "täst-7", true),
        ] {
            let pattern = Pattern::new(expression).expect("it is an expression");
            assert_eq!(pattern.matches(name), matches, "{expression} {name}");
        }
    }

    #[test]
    fn names_take_the_places_of_variables_and_mean_themselves() {
        for (expression, user, host, key, matches) in [
            ("^{username}\\.", "ada", "/", "ada.x", true),
            ("^{username}\\.", "ada", "/", "adaxx", false),
            ("^{username}\\.", ".*", "/", "ada.x", false),
            ("^{username}\\.", ".*", "/", ".*.x", true),
            ("^{vhost}-{username}$", "a|b", "v", "v-a|b", true),
            ("^{vhost}-{username}$", "a|b", "v", "b", false),
            ("^{vhost}$", "ada", "{username}", "ada", false),
            ("^{vhost}$", "ada", "{username}", "{username}", true),
            ("^a{2}$", "ada", "/", "aa", true),
            ("", "ada", "/", "", true),
            ("", "ada", "/", "a", false),
            ("^$", "ada", "/", "", true),
            (".*", "ada", "/", "", true),
            ("b", "ada", "/", "a.b.c", true),
        ] {
            let pattern = Pattern::for_keys(expression, user, host).expect("it is an expression");
            assert_eq!(pattern.matches(key), matches, "{expression} of {user} in {host}: {key}");
        }
        for (expression, reason) in
            [("{user}", "repetition"), ("(", "unclosed group"), (&"a".repeat(LONGEST + 1), "longer than")]
        {
            let error = Pattern::for_keys(expression, "ada", "/").expect_err(expression);
            assert!(error.contains(reason), "{expression}: {error}");
        }
    }

    #[test]
    fn what_would_cost_too_much_or_is_no_expression_is_refused_with_a_reason() {
        for (expression, reason) in [
            ("((((a{100}){100}){100}){100})", "too much memory"),
            ("\\pL{100000}", "too much memory"),
            (&"a".repeat(LONGEST + 1), "longer than"),
            ("(", "unclosed group"),
            ("a(?=b)", "look-around"),
            ("(a)\\1", "backreferences"),
            (&"(".repeat(2000), "unclosed group"),
            (&format!("{}{}", "(".repeat(2000), ")".repeat(2000)), "nest"),
        ] {
            let error = Pattern::new(expression).expect_err(expression);
            assert!(error.contains(reason) && error.lines().count() == 1, "{expression}: {error}");
        }
    }

    #[test]
    fn expressions_that_take_for_ever_elsewhere_take_time_in_proportion_to_the_name() {
        // 2^200 steps for whoever tries one way after the other.
        let name = format!("{}!", "a".repeat(200));
        for expression in ["^(a+)+$", "^(a|a)*$", "^(a|aa)+$", "^(([a-z])+.)+[A-Z]([a-z])+$", "^(.*a){30}$"] {
            assert!(!Pattern::new(expression).expect("it is an expression").matches(&name), "{expression}");
        }
    }
}
