//! Programs from a seed.

use super::program::{Action, Bind, Consume, Declare, Field, Fields, How, Many, Program, Publish, Step};
use fastrand::Rng;

/// What a program is mostly about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Theme {
    Topology,
    Consumers,
    DeadLetters,
    Limits,
    Priorities,
    Transactions,
    Confirms,
    Quorum,
    Times,
    Owners,
    Mistakes,
    Anything,
}

const THEMES: [Theme; 12] = [
    Theme::Topology,
    Theme::Consumers,
    Theme::DeadLetters,
    Theme::Limits,
    Theme::Priorities,
    Theme::Transactions,
    Theme::Confirms,
    Theme::Quorum,
    Theme::Times,
    Theme::Owners,
    Theme::Mistakes,
    Theme::Anything,
];

const KEYS: [&str; 5] = ["a", "b", "a.b", "a.b.c", ""];
const PATTERNS: [&str; 8] = ["a", "b", "a.*", "#", "*.b", "a.#", "*.*.c", "#.b.#"];

/// Makes the program of a seed.
pub fn program(seed: u64) -> Program {
    let mut random = Rng::with_seed(seed);
    let theme = THEMES[random.usize(..THEMES.len())];
    let mut generator = Generator { random, theme, queues: Vec::new(), exchanges: Vec::new(), body: 0, tags: 0 };
    generator.program()
}

struct Generator {
    random: Rng,
    theme: Theme,
    /// As they were declared first.
    queues: Vec<Declare>,
    exchanges: Vec<Declare>,
    body: u32,
    tags: u32,
}

impl Generator {
    fn chance(&mut self, one_in: u32) -> bool {
        self.random.u32(..one_in) == 0
    }

    fn any<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.random.usize(..of.len())]
    }

    fn program(&mut self) -> Program {
        let mut steps = Vec::new();
        let queues = 1 + self.random.usize(..3);
        let exchanges = if self.theme == Theme::Topology { 2 + self.random.usize(..3) } else { self.random.usize(..2) };
        for number in 0..queues {
            let declare = self.queue(number);
            self.queues.push(declare);
        }
        for number in 0..exchanges {
            let declare = self.exchange(number);
            self.exchanges.push(declare);
        }
        // Most declarations come first: what has nothing to do it with shows nothing.
        for at in 0..self.exchanges.len() {
            if !self.chance(12) {
                let declare = self.exchanges[at].clone();
                steps.push(self.step(Action::DeclareExchange(declare)));
            }
        }
        for at in 0..self.queues.len() {
            if !self.chance(12) {
                let declare = self.queues[at].clone();
                // The owner is the second connection more often than not where that matters.
                let place = if declare.exclusive && self.chance(2) { 2 } else { 0 };
                steps.push(Step { place, action: Action::DeclareQueue(declare) });
            }
        }
        for _ in 0..exchanges * 2 {
            let action = self.bind();
            steps.push(self.step(action));
        }
        match self.theme {
            Theme::Transactions => steps.push(Step { place: 0, action: Action::TxSelect }),
            Theme::Confirms => steps.push(Step { place: 0, action: Action::ConfirmSelect }),
            _ => {}
        }
        for _ in 0..6 + self.random.usize(..25) {
            let action = self.action();
            steps.push(self.step(action));
        }
        let mut queues: Vec<_> = self.queues.iter().map(|queue| queue.name.clone()).collect();
        queues.push("%other".to_owned());
        let exchanges = self.exchanges.iter().map(|exchange| exchange.name.clone()).collect();
        Program { steps, queues, exchanges }
    }

    fn step(&mut self, action: Action) -> Step {
        let place = match self.random.u32(..10) {
            0..6 => 0,
            6..8 => 1,
            _ => 2,
        };
        Step { place, action }
    }

    /// A queue of the program, or what stands for one.
    fn queue_name(&mut self) -> String {
        if self.chance(40) {
            return "".to_owned();
        }
        if self.chance(60) {
            return (*self.any(&["%none", "%gen0", "%other"])).to_owned();
        }
        let at = self.random.usize(..self.queues.len());
        self.queues[at].name.clone()
    }

    fn exchange_name(&mut self) -> String {
        if self.exchanges.is_empty() || self.chance(8) {
            return (*self.any(&["amq.direct", "amq.topic", "%nowhere"])).to_owned();
        }
        let at = self.random.usize(..self.exchanges.len());
        self.exchanges[at].name.clone()
    }

    fn queue(&mut self, number: usize) -> Declare {
        let mut declare = Declare { name: format!("%q{number}"), ..Declare::default() };
        let theme = self.theme;
        if theme == Theme::Quorum && (number == 0 || self.chance(3)) || theme == Theme::Anything && self.chance(12) {
            declare.durable = true;
            declare.arguments.push(("x-queue-type".into(), Field::Text("quorum".into())));
        } else {
            declare.durable = self.chance(3);
            declare.auto_delete = self.chance(if theme == Theme::Owners { 3 } else { 12 });
            declare.exclusive = self.chance(if theme == Theme::Owners { 2 } else { 20 });
        }
        let is_quorum = !declare.arguments.is_empty();
        if self.wants(&[Theme::DeadLetters, Theme::Quorum], 2, 8) {
            let exchange = if self.chance(3) { "%e0" } else { "" }.to_owned();
            declare.arguments.push(("x-dead-letter-exchange".into(), Field::Text(exchange)));
            if !self.chance(3) {
                let key = format!("%q{}", self.random.u32(..3));
                declare.arguments.push(("x-dead-letter-routing-key".into(), Field::Text(key)));
            }
        }
        if self.wants(&[Theme::Limits], 1, 10) {
            let length = self.random.i32(0..4);
            let name = if self.chance(3) { "x-max-length-bytes" } else { "x-max-length" };
            let length = if name == "x-max-length" { length } else { length * 7 };
            let length = if self.chance(2) { Field::Int(length) } else { Field::Long(length.into()) };
            declare.arguments.push((name.into(), length));
            if self.chance(2) {
                let overflow = *self.any(&["drop-head", "reject-publish", "reject-publish-dlx"]);
                declare.arguments.push(("x-overflow".into(), Field::Text(overflow.into())));
            }
        }
        if !is_quorum && self.wants(&[Theme::Priorities], 1, 12) {
            let most = 1 + self.random.i32(0..5);
            declare.arguments.push(("x-max-priority".into(), Field::Int(most)));
        }
        if self.wants(&[Theme::Consumers, Theme::Quorum], 4, 12) {
            declare.arguments.push(("x-single-active-consumer".into(), Field::Bool(!self.chance(5))));
        }
        if is_quorum && self.chance(3) {
            declare.arguments.push(("x-delivery-limit".into(), Field::Int(self.random.i32(0..3))));
        }
        if !is_quorum && self.wants(&[Theme::Times, Theme::DeadLetters], 3, 15) {
            let ttl = *self.any(&[0, 60_000, SHORT]);
            let ttl = if ttl == SHORT && self.theme != Theme::Times { 0 } else { ttl };
            declare.arguments.push(("x-message-ttl".into(), Field::Int(ttl)));
        }
        if self.wants(&[Theme::Times], 4, 25) {
            let expires = if self.theme == Theme::Times && self.chance(2) { SHORT } else { 600_000 };
            declare.arguments.push(("x-expires".into(), Field::Int(expires)));
        }
        if self.chance(30) {
            let own = if self.chance(2) { Field::Double(1.5) } else { Field::Void };
            declare.arguments.push(("own".into(), own));
        }
        declare
    }

    /// True once in so many times: of the first number where the theme is one of these, of the second elsewhere.
    fn wants(&mut self, themes: &[Theme], here: u32, elsewhere: u32) -> bool {
        let one_in = if themes.contains(&self.theme) { here } else { elsewhere };
        self.chance(one_in)
    }

    fn exchange(&mut self, number: usize) -> Declare {
        let kind = (*self.any(&["direct", "fanout", "topic", "headers"])).to_owned();
        let mut declare = Declare { name: format!("%e{number}"), kind, ..Declare::default() };
        declare.durable = self.chance(3);
        declare.auto_delete = self.chance(6);
        declare.internal = self.chance(10);
        if self.chance(4) {
            let alternate = *self.any(&["%e0", "%e1", "%e2", "%nowhere"]);
            declare.arguments.push(("alternate-exchange".into(), Field::Text(alternate.into())));
        }
        declare
    }

    fn bind(&mut self) -> Action {
        let source = self.exchange_name();
        let key = if self.chance(2) { *self.any(&PATTERNS) } else { *self.any(&KEYS) }.to_owned();
        let key = own_key(&source, key);
        let is_headers = self.exchanges.iter().any(|exchange| exchange.name == source && exchange.kind == "headers");
        let mut arguments = Fields::new();
        if is_headers || self.chance(10) {
            if !self.chance(4) {
                let how = *self.any(&["all", "any", "all", "any", "all-with-x", "any-with-x"]);
                let how = if self.chance(15) { "some" } else { how };
                arguments.push(("x-match".into(), Field::Text(how.into())));
            }
            for name in ["h", "i", "x-h"] {
                if self.chance(2) {
                    let value = self.header();
                    arguments.push((name.into(), value));
                }
            }
        }
        let to_exchange = self.chance(if self.theme == Theme::Topology { 3 } else { 12 });
        let destination = if to_exchange { self.exchange_name() } else { self.queue_name() };
        let bind = Bind { source, destination, key, arguments };
        match (to_exchange, self.chance(6)) {
            (false, false) => Action::BindQueue(bind),
            (false, true) => Action::UnbindQueue(bind),
            (true, false) => Action::BindExchange(bind),
            (true, true) => Action::UnbindExchange(bind),
        }
    }

    fn header(&mut self) -> Field {
        match self.random.u32(..8) {
            0..3 => Field::Text("x".into()),
            3 => Field::Text("y".into()),
            4 => Field::Int(1),
            5 => Field::Long(1),
            6 => Field::Bool(true),
            _ => Field::Void,
        }
    }

    fn publish(&mut self) -> Action {
        let body = format!("m{}{}", self.body, ".".repeat(self.random.usize(..9)));
        self.body += 1;
        let mut publish = Publish { body, ..Publish::default() };
        if self.theme != Theme::Topology && !self.chance(4) || self.exchanges.is_empty() && !self.chance(6) {
            publish.key = self.queue_name();
        } else {
            publish.exchange = self.exchange_name();
            let key = if self.chance(5) { self.queue_name() } else { (*self.any(&KEYS)).to_owned() };
            publish.key = own_key(&publish.exchange, key);
        }
        publish.mandatory = self.chance(4);
        publish.delivery_mode = if self.chance(2) { Some(1 + self.random.u8(..2)) } else { None };
        if self.wants(&[Theme::Priorities], 1, 10) && !self.chance(4) {
            publish.priority = Some(self.random.u8(..7));
        }
        if self.wants(&[Theme::Times], 2, 15) {
            let ttl = match self.random.u32(..3) {
                0 => 0,
                1 if self.theme == Theme::Times => SHORT,
                _ => 60_000,
            };
            publish.expiration = Some(ttl.to_string());
        }
        if self.chance(30) {
            publish.user_id = Some((*self.any(&["guest", "guest", "other"])).to_owned());
        }
        if self.chance(15) {
            publish.message_id = Some(format!("id{}", self.body));
        }
        for name in ["h", "i", "x-h"] {
            if self.chance(if self.theme == Theme::Topology { 2 } else { 20 }) {
                let value = self.header();
                publish.headers.push((name.into(), value));
            }
        }
        for name in ["CC", "BCC"] {
            if self.chance(14) {
                let list: Vec<_> = (0..1 + self.random.u32(..2)).map(|_| Field::Text(self.queue_name())).collect();
                publish.headers.push((name.into(), Field::List(list)));
            }
        }
        Action::Publish(publish)
    }

    fn consume(&mut self) -> Action {
        let queue = self.queue_name();
        // A tag that is used again is an error of the connection.
        let again = self.tags > 0 && self.chance(25);
        let tag = if again { format!("%c{}", self.tags - 1) } else { format!("%c{}", self.tags) };
        self.tags += 1;
        let tag = if self.chance(20) { String::new() } else { tag };
        let mut arguments = Fields::new();
        if self.chance(6) {
            arguments.push(("x-priority".into(), Field::Int(self.random.i32(-1..3))));
        }
        Action::Consume(Consume { queue, tag, no_ack: self.chance(4), exclusive: self.chance(12), arguments })
    }

    fn settle(&mut self) -> Action {
        let how = match self.random.u32(..6) {
            0..3 => How::Ack,
            3 => How::Nack { requeue: self.random.bool() },
            4 => How::Reject { requeue: self.random.bool() },
            _ => How::Reject { requeue: false },
        };
        if self.chance(40) {
            return Action::SettleUnknown { how };
        }
        let many = match self.random.u32(..8) {
            _ if matches!(how, How::Reject { .. }) => Many::One,
            0 => Many::UpTo,
            1 => Many::All,
            _ => Many::One,
        };
        Action::Settle { pick: self.random.usize(..6), how, many }
    }

    fn again(&mut self) -> Action {
        let at = self.random.usize(..self.queues.len());
        let mut declare = self.queues[at].clone();
        match self.random.u32(..12) {
            0..4 => declare.passive = true,
            4 => declare.durable ^= true,
            5 => declare.auto_delete ^= true,
            6 => declare.exclusive ^= true,
            7 => drop(declare.arguments.pop()),
            8 => declare.arguments.push(("x-max-length".into(), Field::Int(7))),
            9 => {
                declare = Declare { exclusive: self.random.bool(), auto_delete: true, ..Declare::default() };
            }
            _ => {}
        }
        Action::DeclareQueue(declare)
    }

    fn exchange_again(&mut self) -> Action {
        if self.exchanges.is_empty() {
            return self.publish();
        }
        let at = self.random.usize(..self.exchanges.len());
        let mut declare = self.exchanges[at].clone();
        match self.random.u32(..8) {
            0..3 => declare.passive = true,
            3 => declare.durable ^= true,
            4 => declare.kind = "topic".to_owned(),
            5 => drop(declare.arguments.pop()),
            _ => {}
        }
        Action::DeclareExchange(declare)
    }

    fn mistake(&mut self) -> Action {
        let bad: [(&str, Field); 23] = [
            ("x-message-ttl", Field::Int(-1)),
            ("x-message-ttl", Field::Text("1".into())),
            ("x-expires", Field::Int(0)),
            ("x-expires", Field::Long(400_000_000_000)),
            ("x-max-length", Field::Int(-5)),
            ("x-max-length", Field::Double(1.0)),
            ("x-max-priority", Field::Int(256)),
            ("x-max-priority", Field::Int(-1)),
            ("x-overflow", Field::Text("drop-tail".into())),
            ("x-overflow", Field::Int(1)),
            ("x-dead-letter-exchange", Field::Int(1)),
            ("x-dead-letter-routing-key", Field::Text("k".into())),
            ("x-single-active-consumer", Field::Text("yes".into())),
            ("x-queue-mode", Field::Text("busy".into())),
            ("x-delivery-limit", Field::Int(3)),
            ("x-queue-type", Field::Text("none".into())),
            ("x-max-age", Field::Text("1D".into())),
            ("x-queue-version", Field::Int(9)),
            ("x-queue-version", Field::Text("2".into())),
            ("x-dead-letter-strategy", Field::Text("never".into())),
            ("x-queue-leader-locator", Field::Text("far".into())),
            ("x-queue-mode", Field::Void),
            ("x-queue-type", Field::Int(1)),
        ];
        match self.random.u32(..9) {
            0..4 => {
                let (name, value) = self.any(&bad).clone();
                let arguments = vec![(name.to_owned(), value)];
                Action::DeclareQueue(Declare {
                    name: "%other".into(),
                    durable: self.chance(2),
                    arguments,
                    ..Declare::default()
                })
            }
            4 => Action::DeclareQueue(Declare {
                name: "%other".into(),
                durable: self.chance(2),
                exclusive: self.chance(2),
                auto_delete: self.chance(2),
                arguments: vec![
                    ("x-queue-type".into(), Field::Text("quorum".into())),
                    // RabbitMQ's own crash at an unknown `x-queue-master-locator` is left out.
                    (
                        (*self.any(&[
                            "x-max-priority",
                            "x-queue-mode",
                            "x-message-ttl",
                            "x-dead-letter-strategy",
                            "x-queue-leader-locator",
                        ]))
                        .to_owned(),
                        Field::Int(3),
                    ),
                ],
                ..Declare::default()
            }),
            5 => Action::Recover { requeue: false },
            6 => {
                let headers = vec![("CC".to_owned(), Field::Text("%q0".into()))];
                Action::Publish(Publish { key: "%q0".into(), body: "bad".into(), headers, ..Publish::default() })
            }
            7 => {
                let expiration =
                    Some((*self.any(&["x", "-1", "1.5", "", "315360000000", "315360000001", "+60000"])).to_owned());
                Action::Publish(Publish { key: "%q0".into(), body: "bad".into(), expiration, ..Publish::default() })
            }
            _ => {
                let kind = (*self.any(&["direct", "x-none", ""])).to_owned();
                let name = (*self.any(&["", "amq.own", "amq.direct", "%e9"])).to_owned();
                Action::DeclareExchange(Declare { name, kind, ..Declare::default() })
            }
        }
    }

    fn action(&mut self) -> Action {
        if self.theme == Theme::Transactions && self.chance(6) {
            return if self.chance(3) { Action::TxRollback } else { Action::TxCommit };
        }
        if self.theme == Theme::Mistakes && self.chance(4) {
            return self.mistake();
        }
        if self.theme == Theme::Times && self.chance(7) {
            return Action::Sleep;
        }
        if self.theme == Theme::Owners && self.chance(12) {
            return if self.chance(2) { Action::CloseConnection } else { Action::CloseChannel };
        }
        let theme = self.theme;
        match self.random.u32(..100) {
            0..34 => self.publish(),
            34..44 => Action::Get { queue: self.queue_name(), no_ack: self.chance(3) },
            44..54 => self.consume(),
            54..72 => self.settle(),
            72..75 => Action::Qos { count: self.random.u16(..4), global: self.chance(3) },
            75..78 => Action::Cancel { tag: format!("%c{}", self.random.u32(..self.tags + 1)) },
            78..82 => self.bind(),
            82..85 => self.again(),
            85..86 => self.exchange_again(),
            86..88 => Action::Purge { name: self.queue_name() },
            88..90 => {
                let if_unused = self.chance(2);
                Action::DeleteQueue { name: self.queue_name(), if_unused, if_empty: self.chance(2) }
            }
            90..91 => Action::DeleteExchange { name: self.exchange_name(), if_unused: self.chance(2) },
            91..94 => Action::Recover { requeue: true },
            94..95 => Action::ConfirmSelect,
            95..96 => Action::CloseChannel,
            96..97 if theme == Theme::Mistakes => Action::TxSelect,
            97..98 if theme == Theme::Mistakes => Action::TxCommit,
            _ => Action::Probe,
        }
    }
}

/// A key that no other program uses on an exchange that all programs have.
fn own_key(exchange: &str, key: String) -> String {
    if exchange.starts_with("amq.") && !key.starts_with('%') { format!("%k.{key}") } else { key }
}

/// A time to live that a [`Sleep`](Action::Sleep) outlasts, in milliseconds.
pub const SHORT: i32 = 1500;
