//! What `make soak` runs: two gateways under mixed load for minutes on end, and what memory they and Redis take.
//!
//! One rule: growth is judged against what the configuration allows, and what it allows is computed here, in the open.
//! It does not know how fast anything is.
//!
//! One gateway has the embedded store, the other one Redis; both get at once, as fast as they take it: operations under
//! keys of their own, duplicates, other payloads under used keys, and failures; besides, duplicates that wait and clients
//! that hang up.

use std::collections::VecDeque;
use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use harness::gateway::{cluster, hcm, set_endpoint};
use harness::{Dialect, Gateway, Ledger, Options, PATIENCE, Redis, Request, Webdis, send_all, wait_for, wait_until};
use serde_json::{Value, json};

use crate::machine::{Machine, workers};
use crate::nginx::Nginx;
use crate::wrk;

/// How long records live, so that they come and go many times.
const TTL_S: u64 = 15;
/// `store.max_bytes` of the one gateway: room for `TTL_S` of records, and not for their responses.
const TABLE_BYTES: u64 = 32 << 20;
/// `store.cache.max_bytes` of the other.
const CACHE_BYTES: u64 = 16 << 20;
/// docs/performance.md, "Memory": a table takes at most this many times its bytes …
const TABLE_FACTOR: u64 = 3;
/// … a worker keeps so much of what it owes a store …
const OWED_BYTES: u64 = 16 << 20;
/// … and a gateway under load takes this for its VMs, connections and buffers.
const LOAD_BYTES: u64 = 32 << 20;
/// docs/redis.md: 400 bytes for each key, and less than a kilobyte for a response of this size.
const RECORD_BYTES: u64 = 400 + 1024;
/// How long Redis may take to drop what has expired.
const EXPIRY_LAG_S: u64 = 5;
/// In the second half of the run nothing new is explained by anything: so much is noise of allocators.
const NOISE_BYTES: u64 = 8 << 20;

/// Runs it for so many minutes.
pub fn run(minutes: u64) -> Result<(), String> {
    let machine = Machine::find()?;
    let folder = tempfile::TempDir::with_prefix("envoy-idempotency-soak-")
        .map_err(|error| format!("No temporary folder: {error}."))?;
    let nginx = Nginx::start(&machine, folder.path())?;
    let ledger = Ledger::start();
    let redis = Redis::try_start(&[])?;
    let webdis = Webdis::try_start(redis.addr())?;
    let local = json!({ "max_bytes": TABLE_BYTES });
    let mut shared = Dialect::chosen().store();
    shared["cache"] = json!({ "max_bytes": CACHE_BYTES });
    let gateways = [
        start(Options::new(nginx.addr()), local, ledger.addr())?,
        start(Options::redis(nginx.addr(), Dialect::chosen().front(&redis, &webdis)), shared, ledger.addr())?,
    ];
    let subjects = Subjects { gateways, redis };
    println!("{minutes} minutes; {machine}\n{}", Row::HEAD);

    let script = script(folder.path())?;
    let is_over = AtomicBool::new(false);
    let samples = thread::scope(|scope| {
        let mut others = Vec::new();
        for (name, gateway) in ["embedded", "redis"].into_iter().zip(&subjects.gateways) {
            let (to, is_over, machine, script) = (gateway.addr(), &is_over, &machine, script.as_path());
            others.push(scope.spawn(move || wrk::run(machine, script, to, 16, 60 * minutes, name).map(|_| ())));
            others.push(scope.spawn(move || wait_together(name, to, is_over)));
            others.push(scope.spawn(move || hang_up(name, to, is_over)));
        }
        let samples = subjects.watch(minutes);
        is_over.store(true, Ordering::Relaxed);
        others.into_iter().try_for_each(|other| other.join().map_err(|_| "A client panicked.".to_owned())?)?;
        samples
    })?;
    subjects.come_to_rest()?;
    subjects.have_had_everything()?;
    judge(&samples)
}

/// A gateway that sends what begins with `/slow` to the ledger, which takes its time.
fn start(options: Options, store: Value, ledger: SocketAddr) -> Result<Gateway, String> {
    let policy = json!({ "ttl_s": TTL_S, "lease_ms": 1000, "on_in_flight": { "action": "wait" } });
    let options = options.configuration(json!({ "store": store, "policy": policy })).concurrency(workers());
    Gateway::try_start(options.log_level("error").mutate(move |tree| {
        hcm(tree)["access_log"][0]["typed_config"]["path"] = json!("/dev/null");
        let mut slow = cluster(tree, "payments").clone();
        slow["name"] = json!("slow");
        set_endpoint(&mut slow, ledger);
        tree["static_resources"]["clusters"].as_array_mut().expect("clusters is a list").push(slow);
        let route = json!({ "match": { "prefix": "/slow" }, "route": { "cluster": "slow" } });
        let routes = &mut hcm(tree)["route_config"]["virtual_hosts"][0]["routes"];
        routes.as_array_mut().expect("routes is a list").insert(0, route);
    }))
}

/// Of twenty requests fourteen have keys of their own, three repeat one of them, one has another payload, two fail.
fn script(folder: &Path) -> Result<std::path::PathBuf, String> {
    let file = folder.join("soak.lua");
    let text = format!(
        "{}
function request()
  count = count + 1
  local turn = count % 20
  local path, number, body = '/v1/payments', count, 'ten'
  if turn >= 18 then path = '/fail' elseif turn >= 14 then number = count - turn + 1 end
  if turn == 17 then body = 'six' end
  return 'POST ' .. path .. ' HTTP/1.1\\r\\nHost: api.example.com\\r\\nAuthorization: {}\\r\\nContent-Length: 3\\r\\n' ..
    'Idempotency-Key: ' .. string.format('%s-%d-%010d', turn_name, thread, number) .. '\\r\\n\\r\\n' .. body
end
",
        wrk::frame("turn_name"),
        wrk::CALLER,
    );
    fs::write(&file, text).map_err(|error| format!("{} cannot be written: {error}.", file.display()))?;
    Ok(file)
}

/// Four duplicates at a time, three of which wait for the first.
fn wait_together(name: &str, to: SocketAddr, is_over: &AtomicBool) -> Result<(), String> {
    for number in (0..).take_while(|_| !is_over.load(Ordering::Relaxed)) {
        let pay = Request::post(to, "/slow")
            .caller(wrk::CALLER)
            .key(format!("{name}-wait-{number}"))
            .header("x-test-delay-ms", "100");
        let answers = send_all(&vec![pay.body("ten"); 4]);
        if let Some(other) = answers.iter().find(|answer| ![201, 503].contains(&answer.status)) {
            return Err(format!("Whoever waits is answered as the first is, and not with {other:?}."));
        }
    }
    Ok(())
}

/// Clients that go while the service works: their outcome is unknown.
fn hang_up(name: &str, to: SocketAddr, is_over: &AtomicBool) -> Result<(), String> {
    for number in (0..).take_while(|_| !is_over.load(Ordering::Relaxed)) {
        let pay = Request::post(to, "/slow")
            .caller(wrk::CALLER)
            .key(format!("{name}-gone-{number}"))
            .header("x-test-delay-ms", "200");
        let mut connection = pay.body("ten").open();
        connection.write("ten");
        connection.is_silent_for(Duration::from_millis(50));
        connection.reset();
    }
    Ok(())
}

/// Whose memory is watched.
struct Subjects {
    gateways: [Gateway; 2],
    redis: Redis,
}

/// What was seen at one moment.
#[derive(Clone, Copy)]
struct Sample {
    at_s: f64,
    /// Of the two gateways, as the kernel has it, and of Redis, as it says itself.
    bytes: [u64; 3],
    /// How often the two gateways have executed.
    executed: [u64; 2],
}

impl Subjects {
    /// One sample a second; a line for each tenth of the run.
    fn watch(&self, minutes: u64) -> Result<Vec<Sample>, String> {
        let began = Instant::now();
        let mut samples: Vec<Sample> = Vec::new();
        let window = minutes as usize * 6;
        for second in 0..60 * minutes {
            let due = Duration::from_secs(second);
            wait_until("the second has passed", 2 * PATIENCE, || began.elapsed() >= due);
            let [embedded, shared] = self.gateways.each_ref();
            let bytes = [resident(embedded.process_id())?, resident(shared.process_id())?, used(&self.redis)];
            let executed = [embedded, shared].map(|gateway| gateway.counted("requests.executed"));
            samples.push(Sample { at_s: began.elapsed().as_secs_f64(), bytes, executed });
            if samples.len().is_multiple_of(window) {
                println!("{}", Row(&samples[samples.len() - window..]));
            }
        }
        Ok(samples)
    }

    /// Nothing runs, waits or is owed once the clients have gone.
    fn come_to_rest(&self) -> Result<(), String> {
        for gateway in &self.gateways {
            for gauge in ["running", "waiting", "outbox"] {
                let name = format!("wasmcustom.idempotency_{gauge}");
                wait_for(&format!("{name} is 0"), PATIENCE, || (gateway.stat(&name) == 0).then_some(()))?;
            }
        }
        Ok(())
    }

    /// Each part of the load has come to each gateway; otherwise nothing was shown.
    fn have_had_everything(&self) -> Result<(), String> {
        for gateway in &self.gateways {
            for counter in ["requests.executed", "requests.replayed", "refused.mismatch", "retryable", "unknown"] {
                let count = gateway.counted(counter);
                if count < 100 {
                    return Err(format!("The load was not what it should be: {counter} is {count}."));
                }
            }
        }
        Ok(())
    }
}

/// Holds every sample to what the configuration allows, and the second half of the run to no growth at all.
fn judge(samples: &[Sample]) -> Result<(), String> {
    let first = samples.first().ok_or("nothing was sampled")?;
    let owed = OWED_BYTES * u64::from(workers());
    let mut faults = Vec::new();
    let mut recent: VecDeque<Sample> = VecDeque::new();
    for sample in samples {
        recent.push_back(*sample);
        while recent[0].at_s + ((TTL_S + EXPIRY_LAG_S) as f64) < sample.at_s {
            recent.pop_front();
        }
        // Whatever was claimed within a life may be there.
        let claimed = (sample.executed[1] - recent[0].executed[1]).max(10_000);
        let allowed =
            [TABLE_FACTOR * TABLE_BYTES + LOAD_BYTES, CACHE_BYTES * 5 / 4 + owed + LOAD_BYTES, claimed * RECORD_BYTES];
        for ((name, bytes), (before, allowed)) in NAMES.iter().zip(sample.bytes).zip(first.bytes.iter().zip(allowed)) {
            if bytes > before + allowed {
                faults.push(format!(
                    "{name} took {} after {:.0} s; {} are explained.",
                    mib(bytes),
                    sample.at_s,
                    mib(before + allowed)
                ));
            }
        }
    }
    let late = &samples[samples.len() / 2..];
    let lasted_s = late[late.len() - 1].at_s - late[0].at_s;
    // Redis holds as much as is claimed within a life, which follows the speed of the machine: it is held to that above.
    for (place, name) in NAMES.iter().enumerate().take(2) {
        let grown = slope(late, place) * lasted_s;
        println!("{name}: {:+.1} MiB by trend in the second half; {} are noise.", grown / MIB, mib(NOISE_BYTES));
        if grown > NOISE_BYTES as f64 {
            faults.push(format!("{name} grew by {:.1} MiB in the second half of the run.", grown / MIB));
        }
    }
    let executed: u64 = samples[samples.len() - 1].executed.iter().sum();
    println!("{executed} operations were executed, each under a key of its own or as one more attempt.");
    faults.truncate(5);
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
}

/// A part of the run in one line.
struct Row<'a>(&'a [Sample]);

impl Row<'_> {
    const HEAD: &'static str =
        "until     executed   embedded: MiB, KiB/s      on Redis: MiB, KiB/s         Redis: MiB, KiB/s";
}

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.0[self.0.len() - 1];
        write!(f, "{:>4.0} s {:>12}", last.at_s, last.executed.iter().sum::<u64>())?;
        for (place, bytes) in last.bytes.iter().enumerate() {
            write!(f, "      {:>8.1} {:>+10.1}", *bytes as f64 / MIB, slope(self.0, place) / 1024.0)?;
        }
        Ok(())
    }
}

/// Bytes a second by least squares.
fn slope(samples: &[Sample], place: usize) -> f64 {
    let count = samples.len() as f64;
    let mean = |of: &dyn Fn(&Sample) -> f64| samples.iter().map(of).sum::<f64>() / count;
    let (at, bytes) = (mean(&|sample| sample.at_s), mean(&|sample| sample.bytes[place] as f64));
    let both = mean(&|sample| (sample.at_s - at) * (sample.bytes[place] as f64 - bytes));
    both / mean(&|sample| (sample.at_s - at).powi(2)).max(f64::MIN_POSITIVE)
}

/// Memory of a process that is in use.
fn resident(process: u32) -> Result<u64, String> {
    let file = format!("/proc/{process}/status");
    let text = fs::read_to_string(&file).map_err(|error| format!("{file} cannot be read: {error}."))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    let kib: u64 = line.split_whitespace().next().and_then(|word| word.parse().ok()).ok_or("VmRSS is no number")?;
    Ok(kib * 1024)
}

/// What Redis has allocated.
fn used(redis: &Redis) -> u64 {
    let told = redis.ask(&["INFO", "memory"]).text();
    told.lines().find_map(|line| line.strip_prefix("used_memory:")?.trim().parse().ok()).unwrap_or(0)
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / MIB)
}

const NAMES: [&str; 3] = ["Envoy with the embedded store", "Envoy on Redis", "Redis"];
const MIB: f64 = (1 << 20) as f64;

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(growth: u64, executed: u64) -> Vec<Sample> {
        let sample = |second: u64| Sample {
            at_s: second as f64,
            bytes: [(100 << 20) + second * growth, 100 << 20, (1 << 20) + second.min(20) * executed * 1000],
            executed: [second * executed; 2],
        };
        (0..180).map(sample).collect()
    }

    #[test]
    fn what_stays_within_its_bounds_passes_and_a_leak_does_not() {
        assert_eq!(judge(&samples(0, 5_000)), Ok(()));
        assert!((slope(&samples(1 << 20, 0), 0) - MIB).abs() < 1.0);
        // Too little for any bound, and still growth.
        assert!(judge(&samples(128 << 10, 5_000)).is_err_and(|fault| fault.contains("second half")));
        assert!(judge(&samples(1 << 20, 5_000)).is_err_and(|fault| fault.contains("are explained")));
    }

    #[test]
    fn redis_may_hold_what_is_claimed_within_a_life_and_no_more() {
        let mut all = samples(0, 5_000);
        all[170].bytes[2] = 400 << 20;
        assert!(judge(&all).is_err_and(|fault| fault.starts_with("Redis took 400.0 MiB after 170 s")));
    }
}
