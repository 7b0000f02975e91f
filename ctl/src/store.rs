//! Redis, as this program asks it.
//!
//! Its one rule: what changes a record is the script of the gateways; all else only reads.
//! It does not know what is done with the answers.

use std::fs;
use std::rc::Rc;
use std::time::Duration;

use envoy_idempotency::command::{Command, CommandKind, Failure, StoreReply};
use envoy_idempotency::fingerprint::Fingerprint;
use envoy_idempotency::key::{KeyForm, Name};
use envoy_idempotency::record::Owner;
use envoy_idempotency::store::client::{Batch, Lane, Nonce};
use envoy_idempotency::store::redis::{Named, pack, unpack};
use redis::{
    Client, ClientTlsConfig, Connection, ErrorKind, FromRedisValue, IntoConnectionInfo, RedisError, TlsCertificates,
    Value, cmd,
};

use crate::Failed;
use crate::arguments::Arguments;
use crate::configuration;
use crate::output::time;

/// How many bytes of a record hold all but its response.
const HEAD: isize = 256;
/// How many keys one step of a scan asks for.
const SCAN_STEP: usize = 1000;

/// A connection, and what stands in front of every key.
pub struct Store {
    connection: Connection,
    pub prefix: String,
    timeout_ms: u64,
}

/// How a message names the node that a key of a cluster is of.
pub const MOVED: &str = "another node's";

/// What stands under a key: the beginning of it, or why it cannot be read.
pub type Head = Result<Vec<u8>, String>;

impl Store {
    /// Connects and logs in.
    pub fn open(arguments: &Arguments) -> Result<Store, Failed> {
        let config = configuration::read(arguments)?;
        let prefix = configuration::prefix(arguments, config.as_ref());
        // A second call finds it installed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let timeout = Duration::from_millis(arguments.timeout);
        let client = client(arguments)?;
        let connection = client.get_connection_with_timeout(timeout);
        let connection = connection.map_err(|error| {
            let at = shown(&arguments.redis);
            let is_log_in = error.kind() == ErrorKind::AuthenticationFailed;
            match (is_log_in || matches!(error.code(), Some("WRONGPASS" | "NOAUTH")), error.is_timeout()) {
                (true, _) => {
                    format!("Redis at {at} refuses this user or password ({}): {error}", arguments.password_env)
                }
                (_, true) => format!("no answer of Redis at {at} within {}", time(arguments.timeout)),
                _ => format!("Redis cannot be reached at {at}: {error}"),
            }
        })?;
        connection.set_read_timeout(Some(timeout)).map_err(|error| error.to_string())?;
        Ok(Store { connection, prefix, timeout_ms: arguments.timeout })
    }

    /// Asks one command.
    pub fn ask<T: FromRedisValue>(&mut self, words: &[&str]) -> Result<T, Failed> {
        let mut command = cmd(words.first().copied().unwrap_or_default());
        for word in words.iter().skip(1) {
            command.arg(*word);
        }
        let asked = words.iter().take(2).copied().collect::<Vec<_>>().join(" ");
        command.query(&mut self.connection).map_err(|error| self.refusal(&asked, &error))
    }

    /// Why Redis does not do what it was asked.
    fn refusal(&self, asked: &str, error: &RedisError) -> Failed {
        match (error.is_timeout(), error.code()) {
            (true, _) => format!("no answer of Redis to {asked} within {}", time(self.timeout_ms)),
            (_, Some("MOVED" | "ASK")) => {
                format!("Redis refuses {asked}: the key is {MOVED} of the Redis Cluster; ask that one ({error})")
            }
            _ => format!("Redis refuses {asked}: {error}"),
        }
    }

    /// The key of an operation.
    pub fn key(&self, name: &Name) -> String {
        format!("{}{}", self.prefix, name.hex())
    }

    /// Milliseconds on the clock of Redis, by which leases are judged.
    pub fn now_ms(&mut self) -> Result<u64, Failed> {
        let (seconds, micros): (u64, u64) = self.ask(&["TIME"])?;
        Ok(seconds * 1000 + micros / 1000)
    }

    /// The whole of a record; none where there is none.
    pub fn record(&mut self, name: &Name) -> Result<Option<Vec<u8>>, Failed> {
        let key = self.key(name);
        self.ask(&["GET", &key])
    }

    /// How many keys there are, in all prefixes.
    pub fn size(&mut self) -> Result<u64, Failed> {
        self.ask(&["DBSIZE"])
    }

    /// One step of a scan for keys that begin so: the keys, and the cursor of the next step, "0" after the last.
    pub fn scan(&mut self, cursor: &str, beginning: &str) -> Result<(String, Vec<Vec<u8>>), Failed> {
        let pattern = format!("{}*", escaped(beginning));
        self.ask(&["SCAN", cursor, "MATCH", &pattern, "COUNT", &SCAN_STEP.to_string()])
    }

    /// The beginnings of these records.
    pub fn heads(&mut self, keys: &[Vec<u8>]) -> Result<Vec<Head>, Failed> {
        let mut pipe = redis::pipe();
        pipe.ignore_errors();
        for key in keys {
            pipe.cmd("GETRANGE").arg(key).arg(0).arg(HEAD - 1);
        }
        let answers: Vec<Value> = pipe.query(&mut self.connection).map_err(|error| self.refusal("GETRANGE", &error))?;
        Ok(answers
            .into_iter()
            .map(|answer| match answer {
                Value::BulkString(bytes) => Ok(bytes),
                Value::ServerError(error) => Err(error.code().to_owned()),
                _ => Err("no string".to_owned()),
            })
            .collect())
    }

    /// Has the script carry out one operation.
    pub fn run(&mut self, name: Name, kind: CommandKind, ttl_ms: u64) -> Result<StoreReply, Failed> {
        let owner = Owner(token()?);
        let command = Command {
            name,
            owner,
            fingerprint: Fingerprint([0; 32]),
            attempt: 0,
            key: KeyForm::Bare,
            lease_ms: 0,
            ttl_ms,
            in_window: false,
            may_begin: true,
            deadline_ms: None,
            kind,
        };
        self.run_all(&[command])?.pop().ok_or_else(|| "Redis's script gave no answer".to_owned())
    }

    /// Has the script carry out these operations, one after the other.
    pub fn run_all(&mut self, commands: &[Command]) -> Result<Vec<StoreReply>, Failed> {
        let tries = commands.iter().map(|command| Ok((Nonce(token()?), Rc::new(command.clone()))));
        let tries = tries.collect::<Result<Vec<_>, Failed>>()?;
        let batch = Batch { id: 1, lane: Lane::Small, tries };
        let packed = pack(&batch, false);
        let mut run = |named: Named| {
            let (word, script) = named.command();
            let mut command = cmd(word);
            command.arg(script).arg(batch.tries.len());
            for it in commands {
                command.arg(format!("{}{}", self.prefix, it.name.hex()));
            }
            command.arg(&packed).query::<Vec<Vec<u8>>>(&mut self.connection)
        };
        let answers = match run(Named::Hash) {
            Err(error) if error.code() == Some("NOSCRIPT") => run(Named::Text),
            answers => answers,
        };
        let answers = answers.map_err(|error| match error.is_timeout() {
            true => format!(
                "{}; whether the script was run is not known: look, and say the word again",
                self.refusal("the script", &error)
            ),
            false => self.refusal("the script", &error),
        })?;
        let read = answers.iter().zip(&batch.tries).map(|(answer, (nonce, command))| match unpack(answer) {
            Ok((echoed, StoreReply::Failed(Failure::Corrupt))) if echoed == *nonce => {
                Err(damaged(&self.key(&command.name)))
            }
            Ok((echoed, StoreReply::Failed(failure))) if echoed == *nonce => {
                Err(format!("the store cannot do it: {}", failure.as_str()))
            }
            Ok((echoed, reply)) if echoed == *nonce => Ok(reply),
            _ => Err("what came from Redis is no answer of the script".to_owned()),
        });
        read.collect()
    }
}

fn client(arguments: &Arguments) -> Result<Client, Failed> {
    let wrong = |error: &dyn std::fmt::Display| format!("--redis {}: {error}", shown(&arguments.redis));
    let info = arguments.redis.as_str().into_connection_info().map_err(|error| wrong(&error))?;
    let mut settings = info.redis_settings().clone();
    if settings.db() != 0 {
        return Err(format!(
            "--redis must name no database but 0, is {}: gateways keep their records in database 0",
            shown(&arguments.redis)
        ));
    }
    if settings.password().is_some() {
        return Err(format!(
            "--redis must not hold a password, which every process could read: put it into {}",
            arguments.password_env
        ));
    }
    if let Ok(password) = std::env::var(&arguments.password_env) {
        settings = settings.set_password(password);
    }
    let info = info.set_redis_settings(settings);
    let read =
        |file: &std::path::Path| fs::read(file).map_err(|error| format!("{} cannot be read: {error}", file.display()));
    let client_tls = match (&arguments.cert, &arguments.key) {
        (Some(cert), Some(key)) => Some(ClientTlsConfig { client_cert: read(cert)?, client_key: read(key)? }),
        _ => None,
    };
    let root_cert = arguments.cacert.as_deref().map(read).transpose()?;
    match client_tls.is_some() || root_cert.is_some() {
        true => Client::build_with_tls(info, TlsCertificates { client_tls, root_cert }),
        false => Client::open(info),
    }
    .map_err(|error| wrong(&error))
}

/// That no word helps an operation whose record cannot be read.
pub fn damaged(key: &str) -> Failed {
    format!(
        "what stands under {key} is damaged, or of a format that this program does not read: no word is taken, and its \
         requests are refused; docs/operations.md says how to get out"
    )
}

/// An address without what may be a password in it.
fn shown(url: &str) -> String {
    match url.rsplit_once('@') {
        Some((_, host)) => format!("…@{host}"),
        None => url.to_owned(),
    }
}

/// A text as a pattern that only it matches.
fn escaped(text: &str) -> String {
    let escape = |char: char| if "*?[]\\^".contains(char) { vec!['\\', char] } else { vec![char] };
    text.chars().flat_map(escape).collect()
}

/// Sixteen bytes that no other call has.
pub fn token() -> Result<[u8; 16], Failed> {
    let mut bytes = [0; 16];
    let filled = rustls::crypto::ring::default_provider().secure_random.fill(&mut bytes);
    filled.map(|()| bytes).map_err(|_| "this system has no random numbers".to_owned())
}
