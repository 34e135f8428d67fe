//! Users and virtual hosts: who gets in, what an operator changes, and what survives.

use crate::raw::{PATIENCE, Raw};
use crate::{Directory, QUICK};
use homing_broker::protocol::{Properties, Table, TableWriter, Value, methods};
use homing_broker::server::{AccountStore, Admin, Change, ChangeError, DiskStorage, PasswordHash, Permissions, Server};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

/// By this a copy of this program makes changes, in the directory that it names, until it is killed.
const CHILD: &str = "HOMING_BROKER_TEST_ACCOUNTS";

fn serve(directory: &Path) -> (Server, SocketAddr) {
    crate::start(Server::builder().storage(DiskStorage::new(directory)))
}

fn run<F: Future>(test: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(test)
}

fn changed(admin: &Admin, change: Change) {
    let shown = format!("{change:?}");
    run(admin.change(change)).unwrap_or_else(|error| panic!("{shown}: {error}"));
}

fn add_user(name: &str, hash: &str) -> Change {
    let password = Some(PasswordHash::from_phc(hash).expect("a hash"));
    Change::AddUser { name: name.to_owned(), password, tags: vec![] }
}

fn add_host(name: &str) -> Change {
    Change::AddVirtualHost { name: name.to_owned() }
}

fn remove_host(name: &str) -> Change {
    Change::RemoveVirtualHost { name: name.to_owned() }
}

fn remove_user(name: &str) -> Change {
    Change::RemoveUser { name: name.to_owned() }
}

fn permit(user: &str, host: &str, permissions: Permissions) -> Change {
    Change::SetPermissions { user: user.to_owned(), virtual_host: host.to_owned(), permissions }
}

/// What comes of a login as this user: the tuning, or the close.
fn log_in(address: SocketAddr, user: &str, password: &str) -> String {
    let mut raw = Raw::started(address);
    raw.log_in(user, password);
    let (_, text) = raw.method();
    text
}

fn is_in(address: SocketAddr, user: &str, password: &str) -> bool {
    let answer = log_in(address, user, password);
    let is_refused = answer.contains("reply_code: 403")
        && answer.contains("ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details");
    assert!(is_refused || answer.starts_with("ConnectionTune("), "{answer}");
    !is_refused
}

/// What comes of entering a virtual host.
fn enter(address: SocketAddr, user: &str, password: &str, host: &str) -> (Raw, String) {
    let mut raw = Raw::started(address);
    raw.log_in(user, password);
    raw.expect("ConnectionTune(");
    raw.send(0, methods::connection::TuneOk { channel_max: 0, frame_max: 0, heartbeat: 0 });
    raw.send(0, methods::connection::Open { virtual_host: host });
    let (_, text) = raw.method();
    (raw, text)
}

fn entered(address: SocketAddr, user: &str, password: &str, host: &str) -> Raw {
    let (mut raw, text) = enter(address, user, password, host);
    assert!(text.starts_with("ConnectionOpenOk"), "{text}");
    raw.send(1, methods::channel::Open {});
    raw.expect("ChannelOpenOk");
    raw
}

#[test]
fn only_the_right_password_lets_a_user_in() {
    let (server, address) = crate::server();
    let admin = server.admin();
    changed(
        &admin,
        Change::AddUser {
            name: "ada".to_owned(),
            password: Some(PasswordHash::new("lovelace").expect("a hash")),
            tags: vec![],
        },
    );
    changed(&admin, Change::AddUser { name: "mute".to_owned(), password: None, tags: vec![] });
    for _ in 0..2 {
        // The second time it is known without being hashed.
        assert!(is_in(address, "ada", "lovelace"));
        for (user, password) in
            [("ada", "Lovelace"), ("ada", ""), ("mute", ""), ("mute", "mute"), ("nobody", ""), ("", ""), ("guest", "")]
        {
            assert!(!is_in(address, user, password), "{user} {password}");
        }
    }
    let password = Some(PasswordHash::new("byron").expect("a hash"));
    changed(&admin, Change::SetPassword { name: "ada".to_owned(), password });
    assert!(!is_in(address, "ada", "lovelace") && is_in(address, "ada", "byron"));
    changed(&admin, remove_user("ada"));
    assert!(!is_in(address, "ada", "byron"));
    // A namesake has another password.
    changed(&admin, add_user("ada", QUICK));
    assert!(!is_in(address, "ada", "byron") && is_in(address, "ada", "secret"));
}

#[test]
fn a_table_is_a_way_to_log_in_too() {
    let (_server, address) = crate::server();
    let log_in = |fields: &[(&str, &str)]| {
        let mut response = Vec::new();
        let mut table = TableWriter::new(&mut response);
        for (name, value) in fields {
            table.field(name.as_bytes(), &Value::String(value.as_bytes()));
        }
        let mut properties = Vec::new();
        TableWriter::new(&mut properties).table(b"capabilities", |table| {
            table.field(b"authentication_failure_close", &Value::Bool(true));
        });
        let mut raw = Raw::started(address);
        raw.send(
            0,
            methods::connection::StartOk {
                client_properties: Table::unchecked(&properties),
                mechanism: "AMQPLAIN",
                response: &response,
                locale: "en_US",
            },
        );
        raw.method().1
    };
    assert!(log_in(&[("LOGIN", "guest"), ("PASSWORD", "guest")]).starts_with("ConnectionTune("));
    let refused = log_in(&[("LOGIN", "guest"), ("PASSWORD", "wrong")]);
    assert!(refused.contains("reply_code: 403") && refused.contains("mechanism AMQPLAIN"), "{refused}");
    for fields in [&[][..], &[("LOGIN", "guest")], &[("PASSWORD", "guest")]] {
        let refused = log_in(fields);
        assert!(refused.contains("reply_code: 502") && refused.contains("LOGIN or PASSWORD"), "{refused}");
    }
}

#[test]
fn a_virtual_host_is_entered_by_those_who_may_and_has_queues_of_its_own() {
    let (server, address) = crate::server();
    let admin = server.admin();
    changed(&admin, add_user("ada", QUICK));
    changed(&admin, add_host("v"));
    let (_, text) = enter(address, "ada", "secret", "none");
    assert!(text.contains("reply_code: 530") && text.contains("NOT_ALLOWED - vhost none not found"), "{text}");
    let (_, text) = enter(address, "ada", "secret", "v");
    let refused = "NOT_ALLOWED - access to vhost 'v' refused for user 'ada'";
    assert!(text.contains("reply_code: 530") && text.contains(refused), "{text}");
    changed(&admin, permit("ada", "v", Permissions::all()));
    let mut in_v = entered(address, "ada", "secret", "v");
    in_v.send(1, crate::raw::declare("q"));
    in_v.expect("QueueDeclareOk");
    let mut in_root = entered(address, "guest", "guest", "/");
    in_root.send(1, methods::queue::Declare { passive: true, ..crate::raw::declare("q") });
    assert!(in_root.closed().contains("no queue 'q' in vhost '/'"));
    let status = run(admin.status()).expect("it runs");
    let of = |name: &str| status.virtual_hosts.iter().find(|host| host.name == name).map(|host| host.queues);
    assert_eq!((status.connections, of("/"), of("v"), of("w")), (2, Some(0), Some(1), None));
    // One that is in memory only can be removed and added again, too.
    changed(&admin, remove_host("v"));
    assert!(in_v.closed().contains("vhost 'v' is deleted"));
    changed(&admin, add_host("v"));
}

#[test]
fn permissions_count_at_once_on_connections_that_are_open() {
    let (server, address) = crate::server();
    let admin = server.admin();
    changed(&admin, add_user("ada", QUICK));
    changed(&admin, permit("ada", "/", Permissions::default()));
    let mut raw = entered(address, "ada", "secret", "/");
    let mut channel = 1;
    let mut may = |raw: &mut Raw| {
        raw.send(channel, crate::raw::declare("q"));
        let (_, text) = raw.method();
        if text.starts_with("QueueDeclareOk") {
            return true;
        }
        assert!(text.contains("access to queue 'q' in vhost '/' refused for user 'ada'"), "{text}");
        channel += 1;
        raw.send(channel, methods::channel::Open {});
        raw.expect("ChannelOpenOk");
        false
    };
    assert!(!may(&mut raw));
    changed(&admin, permit("ada", "/", Permissions { configure: "^q$".to_owned(), ..Permissions::default() }));
    assert!(may(&mut raw));
    changed(&admin, Change::ClearPermissions { user: "ada".to_owned(), virtual_host: "/".to_owned() });
    assert!(!may(&mut raw));
    changed(&admin, permit("ada", "/", Permissions::all()));
    assert!(may(&mut raw));
}

#[test]
fn a_user_with_the_tag_may_publish_in_others_names() {
    let (server, address) = crate::server();
    let admin = server.admin();
    changed(&admin, add_user("ada", QUICK));
    changed(&admin, permit("ada", "/", Permissions::all()));
    let mut raw = entered(address, "ada", "secret", "/");
    let mut named = Properties::default();
    named.user_id = Some(b"byron");
    changed(&admin, Change::SetTags { name: "ada".to_owned(), tags: vec!["impersonator".to_owned()] });
    raw.send(1, crate::raw::declare("q"));
    raw.publish(1, "", "q", true, named, b"x");
    raw.send(1, methods::queue::Purge { queue: "q", no_wait: false });
    raw.expect("QueueDeclareOk");
    raw.expect("QueuePurgeOk(PurgeOk { message_count: 1 })");
    changed(&admin, Change::SetTags { name: "ada".to_owned(), tags: vec!["administrator".to_owned()] });
    raw.publish(1, "", "q", true, named, b"x");
    assert!(raw.closed().contains("user_id property set to 'byron' but authenticated user was 'ada'"));
}

#[test]
fn what_is_removed_takes_its_connections_and_messages_with_it() {
    let directory = Directory::new("remove");
    let (server, address) = serve(&directory.0);
    let admin = server.admin();
    changed(&admin, add_user("ada", QUICK));
    changed(&admin, add_host("v"));
    changed(&admin, permit("ada", "v", Permissions::all()));
    changed(&admin, permit("guest", "v", Permissions::all()));
    changed(&admin, permit("ada", "/", Permissions::all()));
    let fill = |raw: &mut Raw| {
        raw.send(1, methods::queue::Declare { durable: true, ..crate::raw::declare("q") });
        let mut persistent = Properties::default();
        persistent.delivery_mode = Some(2);
        raw.send(1, methods::confirm::Select { no_wait: false });
        raw.publish(1, "", "q", true, persistent, b"x");
        raw.expect("QueueDeclareOk");
        raw.expect("ConfirmSelectOk");
        raw.expect("BasicAck(");
    };
    let mut stays = entered(address, "ada", "secret", "/");
    let mut goes = entered(address, "guest", "guest", "v");
    fill(&mut goes);
    changed(&admin, remove_host("v"));
    let closed = goes.closed();
    assert!(closed.contains("320") && closed.contains("CONNECTION_FORCED - vhost 'v' is deleted"), "{closed}");
    assert!(!directory.0.join("vhost-v").exists(), "its messages are gone from the disk");
    // One of the same name is another one, at once and after a restart.
    changed(&admin, add_host("v"));
    changed(&admin, permit("guest", "v", Permissions::all()));
    let mut again = entered(address, "guest", "guest", "v");
    again.send(1, methods::queue::Declare { passive: true, ..crate::raw::declare("q") });
    assert!(again.closed().contains("no queue 'q' in vhost 'v'"));
    fill(&mut entered(address, "guest", "guest", "v"));
    changed(&admin, remove_user("ada"));
    let closed = stays.closed();
    assert!(closed.contains("320") && closed.contains("CONNECTION_FORCED - user 'ada' is deleted"), "{closed}");
    drop(server);
    let (_server, address) = serve(&directory.0);
    let mut raw = entered(address, "guest", "guest", "v");
    raw.send(1, methods::queue::Purge { queue: "q", no_wait: false });
    raw.expect("QueuePurgeOk(PurgeOk { message_count: 1 })");
    assert!(!is_in(address, "ada", "secret"));
}

#[test]
fn a_removal_that_was_interrupted_is_finished_at_the_next_start() {
    let directory = Directory::new("interrupted");
    let (server, _) = serve(&directory.0);
    changed(&server.admin(), add_host("v"));
    let locked = AccountStore::open(&directory.0).expect_err("the server has it");
    assert_eq!(locked.kind(), homing_broker::store::ErrorKind::Locked);
    drop(server);
    assert!(directory.0.join("vhost-v").exists());
    let mut store = AccountStore::open(&directory.0).expect("nobody has it");
    store.change(&remove_host("v")).expect("removed");
    // Its messages are still there: nobody may find them under the same name.
    assert!(store.change(&add_host("v")).expect_err("not yet").to_string().contains("restart"));
    drop(store);
    let (server, _) = serve(&directory.0);
    assert!(!directory.0.join("vhost-v").exists());
    changed(&server.admin(), add_host("v"));
}

#[test]
fn what_an_operator_has_changed_is_there_after_a_restart_and_guest_stays_away() {
    let directory = Directory::new("restart");
    let mut store = AccountStore::open(&directory.0).expect("a new one");
    let initial = store.accounts();
    assert_eq!((initial.users.len(), &*initial.virtual_hosts), (1, &["/".to_owned()][..]));
    store.change(&add_user("ada", QUICK)).expect("added");
    store.change(&permit("ada", "/", Permissions { read: "^q".to_owned(), ..Permissions::default() })).expect("set");
    store.change(&remove_user("guest")).expect("removed");
    let before = store.accounts();
    store.close().expect("closed");
    for _ in 0..2 {
        let (server, address) = serve(&directory.0);
        assert_eq!(run(server.admin().accounts()).expect("it runs"), before);
        assert!(!is_in(address, "guest", "guest") && is_in(address, "ada", "secret"));
    }
    // What the program gives is not kept, and not the operator's.
    let (server, address) =
        crate::start(Server::builder().storage(DiskStorage::new(&directory.0)).user("own", "x").virtual_host("w"));
    assert!(is_in(address, "own", "x") && is_in(address, "ada", "secret"));
    entered(address, "own", "x", "w");
    for change in [remove_user("own"), remove_host("w"), permit("own", "/", Permissions::default())] {
        let refused = run(server.admin().change(change)).expect_err("it is the program's");
        assert!(matches!(&refused, ChangeError::Refused(text) if text.contains("program")), "{refused}");
    }
    drop(server);
    let (server, address) = serve(&directory.0);
    assert_eq!(run(server.admin().accounts()).expect("it runs"), before);
    assert!(!is_in(address, "own", "x"));
}

#[test]
fn passwords_are_hashed_beside_what_the_server_does_and_no_longer_than_a_login_may_take() {
    // Some 50 ms of processor time each.
    const SLOW: &str =
        "$argon2id$v=19$m=32768,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    const CLIENTS: usize = 12;
    let mut limits = homing_broker::server::Limits::default();
    limits.password_checks = 1;
    limits.handshake = PATIENCE * 3;
    let (server, address) = crate::start(Server::builder().limits(limits));
    changed(&server.admin(), add_user("ada", SLOW));
    let mut waiting: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut raw = Raw::started(address);
            raw.log_in("ada", "wrong");
            raw
        })
        .collect();
    let mut raw = Raw::channel(address);
    for _ in 0..CLIENTS * 3 {
        raw.send(1, crate::raw::declare("q"));
        raw.expect("QueueDeclareOk");
    }
    let mut last = waiting.pop().expect("the last one");
    assert!(last.is_silent(std::time::Duration::from_millis(1)), "all were hashed before others were served");
    // Those who have gone are not waited for.
    drop(waiting);
    assert!(last.closed().contains("reply_code: 403"));

    let mut limits = homing_broker::server::Limits::default();
    limits.password_checks = 1;
    limits.handshake = std::time::Duration::from_secs(3);
    let (server, address) = crate::start(Server::builder().limits(limits));
    // Some 2 s of processor time each: the fourth would have its turn after 6 s.
    changed(&server.admin(), add_user("ada", &SLOW.replace("m=32768,t=2", "m=131072,t=24")));
    let mut waiting: Vec<_> = (0..4)
        .map(|_| {
            let mut raw = Raw::started(address);
            raw.log_in("ada", "wrong");
            raw
        })
        .collect();
    assert_eq!(waiting.pop().expect("the last one").next(), crate::raw::Got::End);
}

#[test]
fn a_thousand_wrong_passwords_leave_nothing_behind() {
    let (server, address) = crate::server();
    changed(&server.admin(), add_user("ada", QUICK));
    for number in 0..1000 {
        assert!(!is_in(address, "ada", &format!("wrong {number}")));
    }
    assert!(is_in(address, "ada", "secret"));
    for _ in 0..1000 {
        if run(server.admin().status()).expect("it runs").connections == 0 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("connections are left");
}

/// Not a test: adds users and tells about each until it is killed, where another test has started this program for it.
#[test]
fn changes_for_others() {
    let Some(directory) = std::env::var_os(CHILD) else { return };
    let (server, _) = serve(Path::new(&directory));
    let admin = server.admin();
    let first = run(admin.accounts()).expect("it runs").users.len();
    println!();
    for number in first.. {
        let name = format!("user-{number}");
        changed(&admin, add_user(&name, QUICK));
        changed(&admin, permit(&name, "/", Permissions::all()));
        println!("added {name}");
    }
}

#[test]
fn a_server_that_is_killed_has_every_change_that_it_answered() {
    let directory = Directory::new("kill");
    let mut random = fastrand::Rng::with_seed(11);
    let mut added = 0;
    for _ in 0..5 {
        let program = std::env::current_exe().expect("this program");
        let mut child = Command::new(program)
            .args(["--exact", "accounts::changes_for_others", "--nocapture"])
            .env(CHILD, &directory.0)
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()
            .expect("it starts");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        let mut left = random.usize(1..30);
        let mut answered = Vec::new();
        for line in output.lines().map_while(Result::ok) {
            answered.extend(line.strip_prefix("added ").map(str::to_owned));
            if answered.len() == left {
                child.kill().expect("SIGKILL");
                // What it has written before it died counts too.
                left = usize::MAX;
            }
        }
        child.wait().expect("it has ended");
        let accounts = AccountStore::open(&directory.0).expect("it opens").accounts();
        for name in &answered {
            assert!(accounts.users.iter().any(|user| user.name == *name), "{name} is lost");
            assert!(accounts.permissions.iter().any(|granted| granted.user == *name), "{name} may do nothing");
        }
        assert!(accounts.users.iter().any(|user| user.name == "guest"));
        added += answered.len();
    }
    assert!(added > 5, "{added}");
}

#[test]
fn guest_does_not_come_back_whatever_is_damaged() {
    let directory = Directory::new("damaged");
    let mut store = AccountStore::open(&directory.0).expect("a new one");
    store.change(&add_user("ada", QUICK)).expect("added");
    store.change(&remove_user("guest")).expect("removed");
    store.close().expect("closed");
    let folder = directory.0.join("accounts");
    let files: Vec<_> =
        std::fs::read_dir(&folder).expect("a directory").map(|entry| entry.expect("a file").path()).collect();
    let kept: Vec<_> = files.iter().map(|path| std::fs::read(path).expect("read")).collect();
    let mut opened = 0;
    for (path, bytes) in files.iter().zip(&kept) {
        for at in (0..bytes.len().min(1000)).step_by(9) {
            std::fs::remove_dir_all(&folder).expect("removed");
            std::fs::create_dir(&folder).expect("a directory");
            files.iter().zip(&kept).for_each(|(path, bytes)| std::fs::write(path, bytes).expect("written"));
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x55;
            std::fs::write(path, damaged).expect("written");
            // What cannot be opened lets nobody in.
            let Ok(store) = AccountStore::open(&directory.0) else { continue };
            opened += 1;
            let users = store.accounts().users;
            assert!(!users.iter().any(|user| user.name == "guest"), "{} at {at}: {users:?}", path.display());
        }
    }
    assert!(opened > 10, "{opened} were opened");
}

#[test]
fn a_virtual_host_that_is_refused_leaves_nothing_on_the_disk() {
    let directory = Directory::new("refused");
    let (server, _) = serve(&directory.0);
    let there = || {
        let entries = std::fs::read_dir(&directory.0).expect("a directory");
        let mut names: Vec<_> = entries.map(|entry| entry.expect("an entry").file_name()).collect();
        names.sort();
        names
    };
    let before = there();
    let long = "x".repeat(200) + "é\n";
    for name in ["", "a\nb", &*long, "/"] {
        let refused = run(server.admin().change(add_host(name))).expect_err("it cannot be added");
        assert!(matches!(refused, ChangeError::Refused(_)), "{refused}");
    }
    assert_eq!(there(), before);
}
