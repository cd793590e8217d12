//! A network namespace for each node, joined by a bridge; packets are dropped by nftables where they arrive.
//!
//! Names and addresses carry the test's process id, so that runs side by side do not meet. All is taken down when the network
//! is dropped; after a kill -9 of the test itself `ip netns list` shows what is left over.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use super::{Cut, Party};

/// The namespaces and their bridge.
#[derive(Debug)]
pub(super) struct Namespaces {
    nodes: usize,
    id: u32,
}

impl Namespaces {
    /// Whether this process may make one and cut in it.
    pub(super) fn can_be_made() -> bool {
        let trial = Self { nodes: 1, id: std::process::id() };
        trial.build().is_ok() && trial.set_cuts(&BTreeSet::from([(Party::Clients, Party::Node(0))])).is_ok()
    }

    pub(super) fn make(nodes: usize) -> anyhow::Result<Self> {
        let namespaces = Self { nodes, id: std::process::id() };
        namespaces.build()?;
        Ok(namespaces)
    }

    fn build(&self) -> anyhow::Result<()> {
        let (hub, clients) = (self.hub(), self.clients_link());
        ip(&["netns", "add", &hub])?;
        ip(&["-n", &hub, "link", "add", "bridge", "type", "bridge"])?;
        ip(&["-n", &hub, "link", "set", "bridge", "up"])?;
        self.plug("clients", &["name", &clients])?;
        ip(&["addr", "add", &format!("{}/24", self.address(Party::Clients)), "dev", &clients])?;
        ip(&["link", "set", &clients, "up"])?;
        for node in 0..self.nodes {
            let name = self.name(node);
            ip(&["netns", "add", &name])?;
            self.plug(&format!("node-{node}"), &["name", "eth0", "netns", &name])?;
            ip(&["-n", &name, "addr", "add", &format!("{}/24", self.address(Party::Node(node))), "dev", "eth0"])?;
            ip(&["-n", &name, "link", "set", "eth0", "up"])?;
            ip(&["-n", &name, "link", "set", "lo", "up"])?;
        }
        Ok(())
    }

    /// Makes a cable from the hub's bridge, where its end is called `port`, to `far_end`.
    fn plug(&self, port: &str, far_end: &[&str]) -> anyhow::Result<()> {
        let hub = self.hub();
        let mut cable = vec!["link", "add", "netns", &hub, "name", port, "type", "veth", "peer"];
        cable.extend(far_end);
        ip(&cable)?;
        ip(&["-n", &hub, "link", "set", port, "master", "bridge", "up"])
    }

    /// The bridge has a namespace of its own: what the machine forwards, and what its firewall says, is not asked.
    fn hub(&self) -> String {
        format!("granary-{}-hub", self.id)
    }

    fn clients_link(&self) -> String {
        format!("gr{:x}", self.id)
    }

    fn name(&self, node: usize) -> String {
        format!("granary-{}-{node}", self.id)
    }

    /// In 198.18.0.0/15, which is set aside for tests (RFC 2544). Nodes from `.1` on; everybody else is at `.254`.
    pub(super) fn address(&self, party: Party) -> String {
        let host = match party {
            Party::Node(node) => node + 1,
            Party::Clients => 254,
        };
        format!("198.{}.{}.{host}", 18 + self.id / 256 % 2, self.id % 256)
    }

    pub(super) fn command(&self, node: usize, program: &Path) -> Command {
        let mut command = Command::new("ip");
        // `ip` becomes the program: the child's process id is the node's.
        command.args(["netns", "exec", &self.name(node)]).arg(program);
        command
    }

    pub(super) fn set_cuts(&self, cuts: &BTreeSet<Cut>) -> anyhow::Result<()> {
        for node in 0..self.nodes {
            let here = Party::Node(node);
            let mut rules = String::from("table inet granary {}\ndelete table inet granary\ntable inet granary {\n");
            for (chain, field) in [("input", "saddr"), ("output", "daddr")] {
                writeln!(rules, "chain {chain} {{ type filter hook {chain} priority 0;")?;
                let others = cuts.iter().filter_map(|(from, to)| match (chain, *from, *to) {
                    ("input", from, to) if to == here => Some(from),
                    ("output", from, Party::Clients) if from == here => Some(Party::Clients),
                    _ => None,
                });
                for other in others {
                    writeln!(rules, "ip {field} {} counter drop", self.address(other))?;
                }
                writeln!(rules, "}}")?;
            }
            writeln!(rules, "}}")?;
            self.nft(node, &rules)?;
        }
        Ok(())
    }

    /// The sum of the drop rules' counters.
    pub(super) fn dropped_packets(&self) -> anyhow::Result<u64> {
        let mut sum = 0;
        for node in 0..self.nodes {
            let listed = self.nft(node, "list table inet granary\n")?;
            let counts = listed.split("counter packets ").skip(1);
            sum += counts.filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok()).sum::<u64>();
        }
        Ok(sum)
    }

    fn nft(&self, node: usize, script: &str) -> anyhow::Result<String> {
        let mut nft = self.command(node, Path::new("nft"));
        nft.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = nft.spawn().context("start ip")?;
        child.stdin.take().context("nft's input")?.write_all(script.as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        // What was never made cannot be taken down. A namespace goes some time after its name, but not its cable's end here.
        let _ = ip(&["link", "del", &self.clients_link()]);
        for node in 0..self.nodes {
            let _ = ip(&["netns", "del", &self.name(node)]);
        }
        let _ = ip(&["netns", "del", &self.hub()]);
    }
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip").args(arguments).output().context("start ip")?;
    ensure!(output.status.success(), "ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    Ok(())
}
