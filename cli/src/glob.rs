//! Globs: `*` is any text, `?` any character, `[a-f]` and `[!a-f]` one character of a set, `\` takes the next as it is.

/// A pattern that matches from start to end.
#[derive(Clone, Debug)]
pub(crate) struct Glob(Vec<Part>);

#[derive(Clone, Debug)]
enum Part {
    Any,
    One,
    Exactly(char),
    Set { not: bool, ranges: Vec<(char, char)> },
}

impl Glob {
    pub(crate) fn new(pattern: &str) -> Self {
        let mut parts = Vec::new();
        let mut rest = pattern.chars();
        while let Some(c) = rest.next() {
            parts.push(match c {
                '*' => Part::Any,
                '?' => Part::One,
                '\\' => Part::Exactly(rest.next().unwrap_or('\\')),
                // A bracket that nothing closes stands for itself.
                '[' => match set(rest.as_str()) {
                    Some((part, after)) => {
                        rest = after.chars();
                        part
                    }
                    None => Part::Exactly('['),
                },
                c => Part::Exactly(c),
            });
        }
        Glob(parts)
    }

    pub(crate) fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        let (mut part, mut at) = (0, 0);
        // Where the last `*` stands, and up to where it has been tried.
        let mut star = None;
        while at < text.len() {
            match self.0.get(part) {
                Some(Part::Any) => {
                    star = Some((part, at));
                    part += 1;
                }
                Some(one) if one.takes(text[at]) => (part, at) = (part + 1, at + 1),
                _ => match star {
                    Some((before, tried)) => {
                        star = Some((before, tried + 1));
                        (part, at) = (before + 1, tried + 1);
                    }
                    None => return false,
                },
            }
        }
        self.0[part..].iter().all(|part| matches!(part, Part::Any))
    }
}

impl Part {
    fn takes(&self, c: char) -> bool {
        match self {
            Part::Any => false,
            Part::One => true,
            Part::Exactly(own) => *own == c,
            Part::Set { not, ranges } => ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)) != *not,
        }
    }
}

/// The set behind an opening bracket, and what follows it.
fn set(text: &str) -> Option<(Part, &str)> {
    let (not, body) = match text.strip_prefix(['!', '^']) {
        Some(body) => (true, body),
        None => (false, text),
    };
    // A closing bracket that comes first belongs to the set.
    let first = body.chars().next()?.len_utf8();
    let end = first + body[first..].find(']')?;
    let members: Vec<char> = body[..end].chars().collect();
    let mut ranges = Vec::new();
    let mut rest = members.as_slice();
    while let Some((&from, after)) = rest.split_first() {
        match after {
            ['-', to, after @ ..] => {
                ranges.push((from, *to));
                rest = after;
            }
            _ => {
                ranges.push((from, from));
                rest = after;
            }
        }
    }
    Some((Part::Set { not, ranges }, &body[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_matches_from_start_to_end() {
        for (pattern, text, matches) in [
            ("", "", true),
            ("*", "", true),
            ("state.*.done", "state.x.y.done", true),
            ("state.*.done", "state.x.done.not", false),
            ("state", "state.x", false),
            ("s?a*e", "state", true),
            ("s?a*e", "saate!", false),
            ("[a-c]1", "b1", true),
            ("[!a-c]1", "b1", false),
            ("[]x]", "]", true),
            ("a[", "a[", true),
            ("a.b", "axb", false),
            ("(", "(", true),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("*ä*", "bär", true),
            ("a*a*a*b", &"a".repeat(2000), false),
        ] {
            assert_eq!(Glob::new(pattern).matches(text), matches, "{pattern} {text}");
        }
    }
}
