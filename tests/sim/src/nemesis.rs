//! Faults, by seed: what is done to the world while clients work, and its end.
//!
//! To add one: a variant of [`Deed`], its line in [`Deed::draw`], what it does in [`Nemesis::perform`]. What lasts is undone by
//! [`Nemesis::heal`] at the latest.

use std::collections::BTreeMap;

use granary_history::Recorder;
use granary_history::model::{Edge, Fault, Installed, What};

use crate::bucket::Mood;
use crate::cluster::{Cluster, compactor_name};
use crate::disk::Health;
use crate::net::Weather;
use crate::rng::Rng;
use crate::world::{Death, MS, NODES, node_name};

/// Something done to the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Kill,
    PowerCut,
    KillAll,
    Pause,
    /// One node from all others, in both directions.
    Isolate,
    /// One direction between a node and everybody.
    OneWay,
    /// Two nodes from each other; both see the third.
    Between,
    /// The leader from the other nodes, while clients reach them all: what an old leader answers is heard.
    Desert,
    /// The clients of one host from one node.
    RouterFromNode,
    Mend,
    Weather,
    /// Many requests arrive twice or late, and before the last of them did, all nodes are started anew.
    Echoes,
    SlowDisk,
    FailingSync,
    ClockStep,
    Bucket,
    KillCompactor,
}

impl Deed {
    fn draw(rng: &mut Rng) -> Self {
        match rng.below(100) {
            0..=10 => Self::Kill,
            11..=16 => Self::PowerCut,
            17..=18 => Self::KillAll,
            19..=28 => Self::Pause,
            29..=36 => Self::Isolate,
            37..=41 => Self::OneWay,
            42..=46 => Self::Between,
            47..=52 => Self::Desert,
            53..=56 => Self::RouterFromNode,
            57..=66 => Self::Mend,
            67..=72 => Self::Weather,
            73..=78 => Self::Echoes,
            79..=82 => Self::SlowDisk,
            83..=85 => Self::FailingSync,
            86..=90 => Self::ClockStep,
            91..=95 => Self::Bucket,
            _ => Self::KillCompactor,
        }
    }
}

/// Does what the seed says, and knows what is to be undone.
pub(crate) struct Nemesis {
    rng: Rng,
    recorder: Recorder,
    /// When hosts that are down come up again.
    revivals: BTreeMap<String, u64>,
    next_ns: u64,
    /// What the next deed is, where the last one asks for it.
    follow_up: Option<Deed>,
}

impl Nemesis {
    pub(crate) fn new(rng: Rng, recorder: Recorder) -> Self {
        Self { rng, recorder, revivals: BTreeMap::new(), next_ns: 0, follow_up: None }
    }

    /// To be called at each tick of the faulty phase.
    pub(crate) fn tick(&mut self, cluster: &mut Cluster) {
        let now = cluster.world.now();
        self.revive(cluster, now);
        if now >= self.next_ns {
            self.next_ns = now + self.rng.between(300 * MS, 3_500 * MS);
            let drawn = Deed::draw(&mut self.rng);
            let deed = self.follow_up.take().unwrap_or(drawn);
            self.perform(deed, cluster);
        }
    }

    /// Ends every fault.
    pub(crate) fn heal(&mut self, cluster: &mut Cluster) {
        cluster.world.net.mend();
        cluster.world.net.set_weather(Weather::FAIR);
        cluster.world.bucket.set(Mood::default());
        for number in 1..=NODES {
            let name = node_name(number);
            if let Some(disk) = cluster.world.disk_of(number) {
                disk.set(Health::WELL);
            }
            cluster.world.step_clock(&name, 0);
            cluster.world.pause(&name, 0);
        }
        self.revive(cluster, u64::MAX);
        self.note("all faults", &[], Edge::End, "cuts mended, disks well, every host started");
    }

    fn revive(&mut self, cluster: &mut Cluster, now: u64) {
        let due: Vec<String> =
            self.revivals.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone()).collect();
        for name in due {
            self.revivals.remove(&name);
            cluster.start(&name);
            self.note("start", &[&name], Edge::Once, "started");
        }
    }

    fn note(&self, name: &str, targets: &[&str], edge: Edge, evidence: &str) {
        self.recorder.note(What::Fault(Fault {
            name: name.to_owned(),
            targets: targets.iter().map(|target| (*target).to_owned()).collect(),
            edge,
            installed: Installed::Yes,
            evidence: evidence.to_owned(),
        }));
    }

    fn a_node(&mut self) -> (usize, String) {
        let number = usize::try_from(self.rng.between(1, NODES as u64)).expect("few");
        (number, node_name(number))
    }

    /// Half the time the node that leads the first shard, as far as anybody knows.
    fn a_victim(&mut self, cluster: &Cluster) -> (usize, String) {
        let leader = cluster.leader();
        match leader.filter(|_| self.rng.per_mille(500)) {
            Some(number) => (number, node_name(number)),
            None => self.a_node(),
        }
    }

    fn perform(&mut self, deed: Deed, cluster: &mut Cluster) {
        match deed {
            Deed::Kill => self.kill(cluster, Death::Kill),
            Deed::PowerCut => self.kill(cluster, Death::PowerCut),
            Deed::KillAll => self.kill_all(cluster),
            Deed::Pause => self.pause(cluster),
            Deed::Isolate | Deed::OneWay | Deed::Between | Deed::RouterFromNode => self.cut(deed, cluster),
            Deed::Desert => {
                // The others can elect, and have the time to do so and to go on.
                cluster.world.net.mend();
                self.cut(deed, cluster);
                self.next_ns = cluster.world.now() + self.rng.between(7_000 * MS, 11_000 * MS);
            }
            Deed::Mend => {
                cluster.world.net.mend();
                self.note("cut", &[], Edge::End, "no cuts are left");
            }
            Deed::Weather => self.weather(cluster),
            Deed::Echoes => {
                let echoes = Weather { doubled_per_mille: 300, very_late_per_mille: 300, ..Weather::FAIR };
                self.blow(cluster, echoes);
                self.follow_up = Some(Deed::KillAll);
            }
            Deed::SlowDisk => {
                let (number, name) = self.a_victim(cluster);
                let worst = self.rng.between(20, 1_500);
                if let Some(disk) = cluster.world.disk_of(number) {
                    disk.set(Health { sync_ms_min: worst / 4, sync_ms_max: worst, fails: false });
                    self.note("slow disk", &[&name], Edge::Begin, &format!("syncs take up to {worst} ms"));
                }
            }
            Deed::FailingSync => self.failing_sync(cluster),
            Deed::ClockStep => {
                let (_, name) = self.a_node();
                let by_ms = i64::try_from(self.rng.below(7_200_000)).expect("two hours") - 3_600_000;
                cluster.world.step_clock(&name, by_ms * 1_000_000);
                self.note("clock step", &[&name], Edge::Once, &format!("{by_ms} ms off"));
            }
            Deed::Bucket => {
                let refused_per_mille = *self.rng.pick(&[0, 0, 100, 1_000]);
                let unanswered_per_mille = *self.rng.pick(&[0, 100, 300]);
                cluster.world.bucket.set(Mood { refused_per_mille, unanswered_per_mille });
                let what = format!("{refused_per_mille} refused, {unanswered_per_mille} unanswered in 1000");
                self.note("object store", &[], Edge::Begin, &what);
            }
            Deed::KillCompactor => {
                let name = compactor_name(usize::try_from(self.rng.between(1, 2)).expect("two"));
                self.take_down(cluster, &name, Death::Kill);
            }
        }
    }

    fn take_down(&mut self, cluster: &mut Cluster, name: &str, death: Death) {
        if !cluster.world.is_up(name) {
            return;
        }
        cluster.world.crash(name, death);
        let back = cluster.world.now() + self.rng.between(50 * MS, 6_000 * MS);
        self.revivals.insert(name.to_owned(), back);
        let what = if death == Death::Kill { "kill" } else { "power cut" };
        self.note(what, &[name], Edge::Once, "its tasks are gone, unsynced writes with them");
    }

    fn kill(&mut self, cluster: &mut Cluster, death: Death) {
        let (number, name) = self.a_victim(cluster);
        // A new process finds the disk it has as well as any.
        if let Some(disk) = cluster.world.disk_of(number) {
            disk.set(Health::WELL);
        }
        self.take_down(cluster, &name, death);
    }

    fn kill_all(&mut self, cluster: &mut Cluster) {
        let death = if self.rng.per_mille(500) { Death::Kill } else { Death::PowerCut };
        for number in 1..=NODES {
            self.take_down(cluster, &node_name(number), death);
        }
    }

    fn pause(&mut self, cluster: &mut Cluster) {
        let (_, name) = self.a_victim(cluster);
        let for_ms = self.rng.between(200, 9_000);
        if cluster.world.is_up(&name) {
            cluster.world.pause(&name, for_ms * MS);
            self.note("pause", &[&name], Edge::Once, &format!("not run for {for_ms} ms"));
        }
    }

    fn cut(&mut self, deed: Deed, cluster: &Cluster) {
        let (number, name) = match (deed, cluster.leader()) {
            (Deed::Desert, Some(leader)) => (leader, node_name(leader)),
            _ => self.a_victim(cluster),
        };
        let others = (1..=NODES).filter(|other| *other != number).map(node_name);
        let net = &cluster.world.net;
        let (what, targets) = match deed {
            Deed::Isolate => {
                let everybody: Vec<_> = others.chain(cluster.plain_hosts()).collect();
                for other in &everybody {
                    net.cut(&name, other);
                    net.cut(other, &name);
                }
                ("isolated", vec![name])
            }
            Deed::OneWay => {
                let outward = self.rng.per_mille(500);
                for other in others {
                    if outward { net.cut(&name, &other) } else { net.cut(&other, &name) }
                }
                (if outward { "heard by no node" } else { "hears no node" }, vec![name])
            }
            Deed::Desert => {
                for other in others {
                    net.cut(&name, &other);
                    net.cut(&other, &name);
                }
                ("cut from the other nodes", vec![name])
            }
            Deed::Between => {
                let other = node_name(number % NODES + 1);
                net.cut(&name, &other);
                net.cut(&other, &name);
                ("cut from each other", vec![name, other])
            }
            _ => {
                let hosts = cluster.plain_hosts();
                let host = self.rng.pick(&hosts).clone();
                net.cut(&host, &name);
                ("a host cannot reach a node", vec![host, name])
            }
        };
        let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
        self.note("cut", &targets, Edge::Begin, what);
    }

    fn weather(&mut self, cluster: &Cluster) {
        let weather = Weather {
            delay_ms_min: 0,
            delay_ms_max: *self.rng.pick(&[3, 30, 400]),
            lost_per_mille: *self.rng.pick(&[0, 20, 200]),
            doubled_per_mille: *self.rng.pick(&[0, 50, 200]),
            very_late_per_mille: *self.rng.pick(&[0, 5, 30]),
        };
        self.blow(cluster, weather);
    }

    fn blow(&self, cluster: &Cluster, weather: Weather) {
        cluster.world.net.set_weather(weather);
        self.note("weather", &[], Edge::Begin, &format!("{weather:?}"));
    }

    /// A node whose Raft logs cannot be synced stops serving; like any failed process it is started anew.
    fn failing_sync(&mut self, cluster: &mut Cluster) {
        let (number, name) = self.a_victim(cluster);
        let Some(disk) = cluster.world.disk_of(number).filter(|_| cluster.world.is_up(&name)) else { return };
        disk.set(Health { fails: true, ..Health::WELL });
        self.note("failing sync", &[&name], Edge::Begin, "every sync fails");
        let back = cluster.world.now() + self.rng.between(500 * MS, 5_000 * MS);
        cluster.restart_later(&name, back);
    }
}
