//! What is asked for on the command line; help, completions and the man page are made of it.
//!
//! Its one rule: no secret stands on the command line, where every process of the machine can read it.
//! It does not know how anything is carried out.

use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgGroup, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use envoy_idempotency::command::Resolution;

use crate::Failed;

/// Finds an operation in the store of envoy-idempotency, says what is known of it, and settles it.
///
/// Operations are named by their 64 hex digits, which services see as Idempotency-Operation, or by the first 12 of them,
/// which logs show. Ends with 0; with 1 where the answer is no: nothing found, refused by the store, ill; with 2 where it
/// could not be asked.
#[derive(Debug, Parser)]
#[command(name = "idempotencyctl", version)]
pub struct Arguments {
    /// Redis, such as redis://user@host:6379, or rediss:// for TLS.
    #[arg(
        long,
        global = true,
        env = "IDEMPOTENCY_REDIS",
        default_value = "redis://127.0.0.1:6379",
        value_name = "URL"
    )]
    pub redis: String,

    /// The variable that holds the password of that user.
    #[arg(long, global = true, default_value = "IDEMPOTENCY_REDIS_PASSWORD", value_name = "VARIABLE")]
    pub password_env: String,

    /// The authority that has signed Redis's certificate, PEM; without it the system's.
    #[arg(long, global = true, value_name = "FILE")]
    pub cacert: Option<PathBuf>,

    /// A certificate for Redis, PEM.
    #[arg(long, global = true, requires = "key", value_name = "FILE")]
    pub cert: Option<PathBuf>,

    /// Its key, PEM.
    #[arg(long, global = true, requires = "cert", value_name = "FILE")]
    pub key: Option<PathBuf>,

    /// How long Redis may take to answer; a gateway may take twelve times as long.
    #[arg(long, global = true, default_value = "5s", value_parser = duration_ms, value_name = "TIME")]
    pub timeout: u64,

    /// In front of every Redis key; otherwise store.prefix of --config, or idem:.
    #[arg(long, global = true, value_name = "TEXT")]
    pub prefix: Option<String>,

    /// A gateway's configuration: its document, or a file of Envoy's or Istio's that holds one.
    #[arg(long, short = 'f', global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Ask the operator plugin of a gateway instead of Redis: http://HOST:PORT/operations. --redis wins over the variable.
    #[arg(long, global = true, env = "IDEMPOTENCY_GATEWAY", value_name = "URL")]
    pub gateway: Option<String>,

    /// The variable that holds its token.
    #[arg(long, global = true, default_value = "IDEMPOTENCY_OPERATOR_TOKEN", value_name = "VARIABLE")]
    pub token_env: String,

    /// Say it as JSON.
    #[arg(long, global = true)]
    pub json: bool,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Arguments {
    /// Reads the command line, and whether it wants JSON; which store is asked is clear then.
    ///
    /// # Errors
    /// It names two of them, or a gateway for what only Redis tells.
    pub fn read() -> (bool, Result<Arguments, Failed>) {
        let matches = Arguments::command().get_matches();
        let read = Arguments::from_arg_matches(&matches).map_err(|error| error.to_string());
        (matches.get_flag("json"), read.and_then(|arguments| arguments.with_one_store(&matches)))
    }

    fn with_one_store(mut self, matches: &ArgMatches) -> Result<Arguments, Failed> {
        let is_said = |name| matches.value_source(name) == Some(ValueSource::CommandLine);
        let has_redis = matches.value_source("redis") != Some(ValueSource::DefaultValue);
        match self.command.asks_redis() {
            _ if is_said("gateway") && is_said("redis") => {
                return Err("--redis and --gateway are two stores: give the one that has the records".to_owned());
            }
            Some(name) if is_said("gateway") || self.gateway.is_some() && !has_redis => {
                return Err(format!(
                    "{name} asks Redis: give --redis or IDEMPOTENCY_REDIS. A gateway's operator plugin tells of one \
                     operation at a time (show, resolve, forget)"
                ));
            }
            _ => {}
        }
        if is_said("redis") {
            self.gateway = None;
        }
        Ok(self)
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say under which name a request's operation is kept (wants --config).
    Name(Request),
    /// Say which rule takes a request, and what becomes of it (wants --config).
    Match(Request),
    /// Show what is known of an operation.
    Show {
        /// The operation.
        operation: String,
        /// Show the stored response too; where it is encrypted, --config names the keys.
        #[arg(long)]
        reveal: bool,
    },
    /// List operations.
    List(Wanted),
    /// Say what became of an operation that is not executing.
    #[command(group = ArgGroup::new("said").required(true).args(["ran", "not_run"]))]
    Resolve {
        /// The operation.
        operation: String,
        /// What became of it.
        #[command(flatten)]
        word: Word,
    },
    /// Let an operation run again with any payload, whatever became of it; or let a lock go, though it is held.
    Forget {
        /// The operation.
        operation: String,
    },
    /// Count the operations by their states.
    Stats,
    /// Examine Redis: would it lose or refuse records?
    Doctor {
        /// The user that gateways log in as, whose rights are examined too (Redis 7).
        #[arg(long, value_name = "USER")]
        user: Option<String>,
    },
    /// Print completions for a shell.
    Completions {
        /// Which.
        shell: clap_complete::Shell,
    },
    /// Print the man page.
    Man,
}

impl Command {
    /// Its name, where it asks Redis and nothing else.
    fn asks_redis(&self) -> Option<&'static str> {
        match self {
            Command::List(_) => Some("list"),
            Command::Stats => Some("stats"),
            Command::Doctor { .. } => Some("doctor"),
            _ => None,
        }
    }
}

/// A request, as a client would send it.
#[derive(Args, Debug)]
pub struct Request {
    /// Method and target: 'POST /v1/payments'.
    #[arg(value_name = "REQUEST")]
    pub line: String,
    /// A header field of it, 'name: value'; may be given several times.
    #[arg(long = "header", short = 'H', value_name = "FIELD")]
    pub headers: Vec<String>,
    /// Its body.
    #[arg(long, value_name = "TEXT")]
    pub body: Option<String>,
}

/// Which operations are listed.
#[derive(Args, Debug)]
pub struct Wanted {
    /// Only those in this state; past its lease a running one is unknown.
    #[arg(long)]
    pub state: Option<State>,
    /// Only those that have been so for at least so long: 30s, 10m, 2h, 1d. Of those that run or are open it is not known.
    #[arg(long, value_parser = duration_ms, value_name = "TIME")]
    pub older: Option<u64>,
    /// No more than so many.
    #[arg(long, default_value_t = 1000, value_name = "NUMBER")]
    pub limit: usize,
}

/// How far an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum State {
    Completed,
    Open,
    Running,
    Unknown,
}

/// What became of an operation.
#[derive(Args, Debug)]
#[group(skip)]
pub struct Word {
    /// It ran: retries are refused as completed.
    #[arg(long)]
    pub ran: bool,
    /// The status that it ended with.
    #[arg(long, requires = "ran", value_parser = clap::value_parser!(u16).range(200..600), value_name = "NUMBER")]
    pub status: Option<u16>,
    /// For how long it is to be known that it ran; otherwise a day, and never shorter than it would be.
    #[arg(long, requires = "ran", value_parser = duration_ms, value_name = "TIME")]
    pub ttl: Option<u64>,
    /// It did not run: the same request may run once more.
    #[arg(long, requires = "attempt")]
    pub not_run: bool,
    /// The last attempt that you have looked at, which did not run; where there is another one since, nothing is changed.
    #[arg(long, conflicts_with = "ran", value_parser = clap::value_parser!(u32).range(1..), value_name = "NUMBER")]
    pub attempt: Option<u32>,
}

impl Word {
    /// As the store takes it.
    pub fn resolution(&self) -> Resolution {
        match self.attempt {
            Some(attempt) if self.not_run => Resolution::NotRun { attempt },
            _ => Resolution::Ran { status: self.status },
        }
    }
}

/// Reads 30s, 10m, 2h or 1d.
fn duration_ms(text: &str) -> Result<u64, String> {
    let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let read = units.into_iter().find_map(|(unit, ms)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(ms)
    });
    read.ok_or_else(|| "must be a whole number of ms, s, m, h or d, such as 10m".to_owned())
}
