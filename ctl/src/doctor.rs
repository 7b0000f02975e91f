//! Whether this Redis would lose records, refuse them, or misjudge their leases.
//!
//! Its one rule: each finding says what is so, what follows from it, and what would be right.
//! It does not mend anything; the one record that it writes goes by itself within seconds.

use std::time::{SystemTime, UNIX_EPOCH};

use envoy_idempotency::command::{Command, CommandKind, StoreReply};
use envoy_idempotency::fingerprint::Fingerprint;
use envoy_idempotency::key::{KeyForm, Name};
use envoy_idempotency::record::Owner;
use serde_json::json;

use crate::Failed;
use crate::arguments::Arguments;
use crate::list::{Unread, scan};
use crate::output::{Answer, Said, time};
use crate::store::{MOVED, Store, token};

/// How much the clock of Redis may differ from this machine's before it is said.
const SKEW_MS: u64 = 2_000;

/// How a finding is to be taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Well,
    Risky,
    Ill,
    Unknown,
}

struct Finding {
    about: &'static str,
    kind: Kind,
    said: String,
}

/// Examines Redis; `user` is the one that gateways log in as.
pub fn examine(arguments: &Arguments, user: Option<&str>) -> Result<Said, Failed> {
    let mut store = Store::open(arguments)?;
    let mut found = Vec::new();
    let info = Info(store.ask::<String>(&["INFO"]));
    for (about, examine) in CHECKS {
        let (kind, said) = examine(&mut store, &info);
        found.push(Finding { about, kind, said });
    }
    if let Some(user) = user {
        let (kind, said) = rights(&mut store, user);
        found.push(Finding { about: "rights", kind, said });
    }
    let mark = |kind| match kind {
        Kind::Well => "ok",
        Kind::Risky => "warning",
        Kind::Ill => "error",
        Kind::Unknown => "unknown",
    };
    let text = found.iter().map(|it| format!("{:<8} {:<12} {}\n", mark(it.kind), it.about, it.said)).collect();
    let json = found.iter().map(|it| json!({ "about": it.about, "is": mark(it.kind), "said": it.said })).collect();
    let has = |kind| found.iter().any(|it| it.kind == kind);
    let answer = match (has(Kind::Ill), has(Kind::Unknown)) {
        (true, _) => Answer::No,
        (false, true) => Answer::Unknown,
        (false, false) => Answer::Yes,
    };
    Ok(Said { text, json, answer })
}

type Check = fn(&mut Store, &Info) -> (Kind, String);

const CHECKS: [(&str, Check); 8] = [
    ("version", version),
    ("eviction", eviction),
    ("persistence", persistence),
    ("replicas", replicas),
    ("clock", clock),
    ("script", script),
    ("formats", formats),
    ("cluster", cluster),
];

/// What `INFO` says, or why it says nothing.
struct Info(Result<String, Failed>);

impl Info {
    fn field(&self, name: &str) -> Option<&str> {
        let text = self.0.as_ref().ok()?;
        text.lines().find_map(|line| line.trim_end().strip_prefix(name)?.strip_prefix(':'))
    }

    fn number(&self, name: &str) -> u64 {
        self.field(name).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// Why a field is not there.
    fn hidden(&self) -> (Kind, String) {
        let why = self.0.as_ref().err().map_or("INFO does not tell", String::as_str);
        (Kind::Unknown, format!("{why}; give this user INFO"))
    }
}

fn setting(store: &mut Store, name: &str) -> Option<String> {
    let (_, value): (String, String) = store.ask(&["CONFIG", "GET", name]).ok()?;
    Some(value)
}

fn version(_: &mut Store, info: &Info) -> (Kind, String) {
    let Some(version) = info.field("redis_version") else { return info.hidden() };
    let mut parts = version.split('.').filter_map(|part| part.parse::<u32>().ok());
    match (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (6, 2) {
        true => (Kind::Well, format!("Redis {version}")),
        false => (Kind::Ill, format!("Redis {version} does not run the script: 6.2 or later does")),
    }
}

fn eviction(store: &mut Store, info: &Info) -> (Kind, String) {
    let policy = info.field("maxmemory_policy").map(str::to_owned).or_else(|| setting(store, "maxmemory-policy"));
    let Some(policy) = policy else { return info.hidden() };
    let (most, used) = (info.number("maxmemory"), info.number("used_memory"));
    match (policy.as_str(), info.number("evicted_keys"), most) {
        ("noeviction", 0, 0) => {
            (Kind::Risky, "noeviction, but no maxmemory: set it below the machine's memory".to_owned())
        }
        ("noeviction", 0, most) if used / 9 >= most / 10 => (
            Kind::Risky,
            format!("noeviction, and {used} of {most} bytes are used: once full, new requests are refused"),
        ),
        ("noeviction", 0, _) => (Kind::Well, "noeviction: no record goes before it expires".to_owned()),
        ("noeviction", evicted, _) => {
            (Kind::Risky, format!("noeviction now, but {evicted} keys have been evicted since Redis started"))
        }
        (policy, evicted, _) => (
            Kind::Ill,
            format!(
                "maxmemory-policy is {policy}, and {evicted} keys have been evicted: an operation whose record is evicted may \
                 run again; set noeviction"
            ),
        ),
    }
}

fn persistence(store: &mut Store, info: &Info) -> (Kind, String) {
    let Some(enabled) = info.field("aof_enabled") else { return info.hidden() };
    if enabled != "1" {
        return (
            Kind::Ill,
            "appendonly is no: a crash forgets what came since the last snapshot; set it to yes".to_owned(),
        );
    }
    if info.field("aof_last_write_status").is_some_and(|status| status != "ok") {
        return (Kind::Ill, "the append-only file cannot be written: see the log of Redis".to_owned());
    }
    let delayed = info.number("aof_delayed_fsync");
    match setting(store, "appendfsync").as_deref() {
        Some("always") => (Kind::Well, "appendonly yes, appendfsync always: a crash loses nothing".to_owned()),
        Some("everysec") if delayed > 0 => (
            Kind::Risky,
            format!("appendfsync everysec, and {delayed} flushes came late: the disk is slower than the writes"),
        ),
        Some("everysec") => (
            Kind::Well,
            "appendonly yes, appendfsync everysec: a crash of the machine loses up to two seconds".to_owned(),
        ),
        Some(other) => {
            (Kind::Risky, format!("appendfsync {other}: a crash of the machine loses half a minute and more"))
        }
        None => (Kind::Well, "appendonly yes; appendfsync cannot be read (give this user CONFIG GET)".to_owned()),
    }
}

fn replicas(store: &mut Store, info: &Info) -> (Kind, String) {
    match (info.field("role"), info.number("connected_slaves")) {
        (None, _) => info.hidden(),
        (Some("slave"), _) => {
            (Kind::Ill, "this is a replica, which takes no writes: point gateways at the primary".to_owned())
        }
        (Some(_), 0) => {
            (Kind::Well, "no replica: nothing is lost by a failover, and nothing stands in for this Redis".to_owned())
        }
        (Some(_), count) => match setting(store, "min-replicas-to-write").as_deref() {
            Some("0") => (
                Kind::Risky,
                format!(
                    "{count} replicas, and min-replicas-to-write is 0: a primary that is cut off acknowledges what a failover \
                     loses; set 1, and min-replicas-max-lag"
                ),
            ),
            Some(least) => (Kind::Well, format!("{count} replicas, of which {least} must keep up")),
            None => (
                Kind::Unknown,
                format!("{count} replicas; min-replicas-to-write cannot be read (give this user CONFIG GET)"),
            ),
        },
    }
}

#[expect(clippy::disallowed_methods, reason = "it is this machine's clock that is compared")]
fn own_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn clock(store: &mut Store, _: &Info) -> (Kind, String) {
    let before_ms = own_ms();
    let its_ms = match store.now_ms() {
        Ok(its_ms) => its_ms,
        Err(why) => return (Kind::Unknown, why),
    };
    let after_ms = own_ms();
    let skew_ms = before_ms.saturating_sub(its_ms).max(its_ms.saturating_sub(after_ms));
    match skew_ms < SKEW_MS {
        true => (Kind::Well, "as this machine's; it judges leases, so let NTP slew it and never set it".to_owned()),
        false => (
            Kind::Risky,
            format!(
                "{} off this machine's: one of the two is wrong, and one that is set right ends leases",
                time(skew_ms)
            ),
        ),
    }
}

/// A claim and its withdrawal under a name of no operation's, forgotten within two seconds.
fn script(store: &mut Store, info: &Info) -> (Kind, String) {
    let is_of_cluster = info.field("cluster_enabled") == Some("1");
    if is_of_cluster && info.field("role") == Some("slave") {
        let why = "not run: a replica of a Redis Cluster sends every key to its master";
        return (Kind::Ill, why.to_owned());
    }
    // A node of a cluster runs it for the names of its own slots alone.
    for _ in 0..if is_of_cluster { PROBES } else { 1 } {
        match probe(store) {
            Ok([StoreReply::Granted { attempt: 1, .. }, StoreReply::Settled]) => {
                return (Kind::Well, format!("claims and withdraws under {}", store.prefix));
            }
            Ok(other) => return (Kind::Ill, format!("answers what it should not: {other:?}")),
            Err(why) if is_of_cluster && why.contains(MOVED) => {}
            Err(why) => return (Kind::Ill, why),
        }
    }
    (Kind::Unknown, format!("not run: none of {PROBES} names is of a slot of this node"))
}

/// How many names are tried for one of this node's slots: of a thousand nodes one has it by then.
const PROBES: usize = 5_000;

fn probe(store: &mut Store) -> Result<[StoreReply; 2], Failed> {
    let (name, owner) = (token()?, token()?);
    let command = |kind| Command {
        name: Name([name, name].concat().try_into().unwrap_or([0; 32])),
        owner: Owner(owner),
        fingerprint: Fingerprint([0; 32]),
        attempt: 0,
        key: KeyForm::Bare,
        lease_ms: 1,
        ttl_ms: 2000,
        in_window: false,
        may_begin: true,
        deadline_ms: None,
        kind,
    };
    let commands = [command(CommandKind::Claim { may_retry: false }), command(CommandKind::Withdraw)];
    let answers = store.run_all(&commands)?;
    answers.try_into().map_err(|_| "Redis's script gave too few answers".to_owned())
}

fn formats(store: &mut Store, _: &Info) -> (Kind, String) {
    let (mut seen, mut unread) = (0_u64, Unread::default());
    let scanned = scan(store, "", |key, record| {
        seen += 1;
        if let Err(why) = record {
            unread.note(key, why);
        }
        seen < SAMPLE
    });
    if let Err(why) = scanned {
        return (Kind::Unknown, format!("{why}; give this user SCAN, DBSIZE and GETRANGE"));
    }
    let prefix = &store.prefix;
    let part = if seen < SAMPLE { "all".to_owned() } else { format!("the first {SAMPLE}") };
    match (unread.count_damaged(), unread.not_asked()) {
        (0, None) => (Kind::Well, format!("{part} keys under {prefix} were read ({seen}): each is of a known format")),
        (0, Some(unasked)) => (Kind::Unknown, format!("of {part} keys under {prefix} ({seen}) {unasked}")),
        (damaged, unasked) => (
            Kind::Ill,
            format!(
                "{damaged} of {part} keys under {prefix} ({seen}) hold no record of a known format, and their operations are \
                 refused: {}{}",
                unread.named(),
                unasked.map(|said| format!("; {said}")).unwrap_or_default()
            ),
        ),
    }
}

/// How many keys are looked at.
const SAMPLE: u64 = 10_000;

fn cluster(_: &mut Store, info: &Info) -> (Kind, String) {
    match info.field("cluster_enabled") {
        None => info.hidden(),
        Some("1") => (
            Kind::Risky,
            "a node of a Redis Cluster: list, stats and short names see this node alone, so ask each master".to_owned(),
        ),
        Some(_) => (Kind::Well, "none: this Redis has all records".to_owned()),
    }
}

/// What the script needs, against what a user may do.
fn rights(store: &mut Store, user: &str) -> (Kind, String) {
    let (own, other) = (format!("{}probe", store.prefix), "another-prefix:probe");
    let wanted: [&[&str]; 5] = [
        &["GET", &own],
        &["SET", &own, "x"],
        &["TIME"],
        &["EVAL", "return 1", "1", &own],
        &["EVALSHA", "0000000000000000000000000000000000000000", "1", &own],
    ];
    let mut dry_run = |words: &[&str]| {
        let all: Vec<_> = ["ACL", "DRYRUN", user].into_iter().chain(words.iter().copied()).collect();
        store.ask::<String>(&all).map(|said| said == "OK")
    };
    let mut lacking = Vec::new();
    for words in wanted {
        match dry_run(words) {
            Ok(true) => {}
            Ok(false) => lacking.extend(words.first().map(|word| word.to_lowercase())),
            Err(why) => return (Kind::Unknown, format!("{why}; ACL DRYRUN wants Redis 7 and the right to it")),
        }
    }
    let mut beyond = Vec::new();
    for words in [&["GET", other][..], &["FLUSHALL"], &["CONFIG", "GET", "*"]] {
        if dry_run(words) == Ok(true) {
            beyond.push(words.join(" "));
        }
    }
    match (lacking.as_slice(), beyond.as_slice()) {
        ([], []) => (Kind::Well, format!("{user} may do what the script does under {}, and no more", store.prefix)),
        ([], beyond) => (Kind::Risky, format!("{user} may do more than the script needs: {}", beyond.join(", "))),
        (lacking, _) => (
            Kind::Ill,
            format!("{user} lacks {} under {}: gateways are refused with NOPERM", lacking.join(", "), store.prefix),
        ),
    }
}
