//! How a container lives: when it is started again, and what is kept of its output.

use clap::Args;

use super::super::Failure;
use crate::sandbox::health::HealthCheck;
use crate::sandbox::log::LogLimits;
use crate::sandbox::{Options, RestartPolicy};

/// Options of `run` and `create`.
#[derive(Debug, Args)]
pub struct LifeArgs {
    /// When the container is started again: no, on-failure[:MAX], always, unless-stopped
    #[arg(long, value_name = "POLICY", default_value_t)]
    restart: RestartPolicy,
    /// Driver of the container's log: json-file is the only one
    #[arg(long, value_name = "NAME", value_parser = ["json-file"])]
    log_driver: Option<String>,
    /// Bound of the container's log: max-size=SIZE (default 20m), max-file=N (default 5)
    #[arg(long = "log-opt", value_name = "NAME=VALUE")]
    log_opts: Vec<String>,
    /// Script that says by its exit code whether the container does its work
    #[arg(long, value_name = "SCRIPT", conflicts_with = "no_healthcheck")]
    health_cmd: Option<String>,
    /// Time between two checks (default 30s)
    #[arg(long, value_name = "TIME", value_parser = nanoseconds)]
    health_interval: Option<u64>,
    /// Time that a check may take (default 30s)
    #[arg(long, value_name = "TIME", value_parser = nanoseconds)]
    health_timeout: Option<u64>,
    /// Failures in a row that make the container unhealthy (default 3)
    #[arg(long, value_name = "N")]
    health_retries: Option<u32>,
    /// Time from the start on in which failures do not count
    #[arg(long, value_name = "TIME", value_parser = nanoseconds)]
    health_start_period: Option<u64>,
    /// Time between two checks in it (default 5s)
    #[arg(long, value_name = "TIME", value_parser = nanoseconds)]
    health_start_interval: Option<u64>,
    /// Check nothing, whatever the image says
    #[arg(long)]
    no_healthcheck: bool,
}

/// A length of time such as 30s or 1m30s.
fn nanoseconds(text: &str) -> Result<u64, String> {
    let time: jiff::SignedDuration =
        text.parse().map_err(|_| format!("{text:?} is no length of time such as 30s"))?;
    u64::try_from(time.as_nanos()).map_err(|_| "it is negative, or beyond all lives".to_owned())
}

impl LifeArgs {
    /// What is said of checks; the image may say more.
    fn health(&self) -> Option<HealthCheck> {
        let test = match (&self.health_cmd, self.no_healthcheck) {
            (_, true) => vec!["NONE".to_owned()],
            (Some(script), false) => vec!["CMD-SHELL".to_owned(), script.clone()],
            (None, false) => Vec::new(),
        };
        let check = HealthCheck {
            test,
            interval: self.health_interval.unwrap_or(0),
            timeout: self.health_timeout.unwrap_or(0),
            start_period: self.health_start_period.unwrap_or(0),
            start_interval: self.health_start_interval.unwrap_or(0),
            retries: self.health_retries.unwrap_or(0),
        };
        (check != HealthCheck::default()).then_some(check)
    }

    /// The same options, with these.
    ///
    /// # Errors
    ///
    /// If they contradict each other.
    pub fn apply(self, options: Options) -> Result<Options, Failure> {
        if options.remove && self.restart != RestartPolicy::No {
            return Err(
                "--rm and --restart exclude each other: a container that is started again \
                        cannot be removed when it ends"
                    .into(),
            );
        }
        let mut log = LogLimits::default();
        for option in &self.log_opts {
            log.set(option).map_err(|error| format!("--log-opt: {error}"))?;
        }
        let health = self.health();
        Ok(Options { restart: self.restart, log, health, ..options })
    }
}
