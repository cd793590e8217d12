//! A cluster that lives as long as a bench: `granary dev` in a process of its own, on a temporary directory.

use std::fs::File;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::super::args::Global;

/// As long as `granary dev` itself waits for its shards, and a little.
const READY_TIMEOUT: Duration = Duration::from_secs(150);
/// Lines of its log that are shown when it does not start.
const LOG_LINES: usize = 20;

/// The cluster.
#[derive(Debug)]
pub(super) struct Own {
    process: Child,
    /// Kept open: it would end with a broken pipe.
    output: Lines<BufReader<ChildStdout>>,
    directory: TempDir,
}

impl Own {
    /// Starts it, with the configuration that this process was given, at ports that are free.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn start(global: &Global) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("granary-bench-").tempdir().context("make a directory")?;
        let log = File::create(directory.path().join("dev.log")).context("make a log file")?;
        let mut command = Command::new(std::env::current_exe().context("find this program")?);
        command.arg("dev").args(["--listen", "127.0.0.1:0"]).arg("--data-dir").arg(directory.path().join("data"));
        command.args(global.set.iter().flat_map(|set| ["--set", set]));
        if let Some(config) = &global.config {
            command.arg("--config").arg(config);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        let mut process = command.spawn().context("start granary dev")?;
        let output = process.stdout.take().context("read what granary dev says")?;
        Ok(Self { process, output: BufReader::new(output).lines(), directory })
    }

    /// Waits until it serves. Returns its endpoint.
    ///
    /// # Errors
    /// When it ends before, or takes too long; with the end of its log.
    pub(super) async fn ready(&mut self) -> anyhow::Result<String> {
        let endpoint = async {
            // It says where its API is once every shard has a leader.
            while let Some(line) = self.output.next_line().await? {
                if let Some(endpoint) = line.split_whitespace().find(|word| word.starts_with("http://")) {
                    return anyhow::Ok(endpoint.to_owned());
                }
            }
            bail!("granary dev ended")
        };
        match tokio::time::timeout(READY_TIMEOUT, endpoint).await {
            Ok(Ok(endpoint)) => Ok(endpoint),
            Ok(Err(error)) => bail!("{error}; its log ends with:\n{}", self.log_end()),
            Err(_) => bail!("granary dev is not ready after {READY_TIMEOUT:?}; its log ends with:\n{}", self.log_end()),
        }
    }

    fn log_end(&self) -> String {
        let log = std::fs::read_to_string(self.directory.path().join("dev.log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// Takes it down and removes what it wrote; at once, as nobody wants its data.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        self.process.kill().await.context("end granary dev")?;
        let directory = self.directory.path().to_owned();
        self.directory.close().with_context(|| format!("remove {}", directory.display()))
    }
}
