//! A link that is cut: a machine of its own is a network namespace, joined to this one by a pair of interfaces.

use std::process::Command;

use crate::{
    led::{Led, RANKS, SILENCE, all_end},
    processes::{Process, run},
    support::World,
};

/// A namespace with one link.
struct Machine {
    name: String,
    /// This end of the link.
    link: String,
    /// Address of this end.
    here: String,
}

impl Machine {
    fn new() -> Result<Self, String> {
        let id = std::process::id();
        let net = format!("10.213.{}.{}", (id >> 6) & 255, (id & 63) * 4);
        let (net, last) = net.rsplit_once('.').unwrap();
        let end = |n: u32| format!("{net}.{}", last.parse::<u32>().unwrap() + n);
        let machine = Self {
            name: format!("lavida-{id}"),
            link: format!("lv{id}a"),
            here: end(1),
        };
        let (name, link, far) = (&machine.name, &machine.link, format!("lv{id}b"));
        let ip = |words: &str| run("ip", &words.split(' ').collect::<Vec<_>>());
        ip(&format!("netns add {name}"))?;
        ip(&format!(
            "link add {link} type veth peer name {far} netns {name}"
        ))?;
        ip(&format!("address add {}/30 dev {link}", machine.here))?;
        ip(&format!("link set {link} up"))?;
        ip(&format!("-n {name} address add {}/30 dev {far}", end(2)))?;
        ip(&format!("-n {name} link set {far} up"))?;
        ip(&format!("-n {name} link set lo up"))?;
        Ok(machine)
    }

    /// The same command on that machine.
    fn command(&self, here: &Command) -> Command {
        let mut there = Command::new("ip");
        there.args(["netns", "exec", &self.name]);
        there.arg(here.get_program()).args(here.get_args());
        if let Some(folder) = here.get_current_dir() {
            there.current_dir(folder);
        }
        let set = here
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?)));
        there.envs(set);
        there
    }

    fn cut(&self) {
        run("ip", &["link", "set", &self.link, "down"]).unwrap();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Either may not be there: it is dropped half made, too.
        let _ = run("ip", &["link", "delete", &self.link]);
        let _ = run("ip", &["netns", "delete", &self.name]);
    }
}

#[test]
fn a_run_whose_worker_is_cut_off_goes_on_with_another_and_ends_the_same() {
    let world = World::new();
    let away = match Machine::new() {
        Ok(away) => away,
        Err(why) => return println!("not run: {why}"),
    };
    let whole = Led::undisturbed(&world);
    let head = format!("head,{}", away.here);
    let names = ["--name", &head, "--name", "node"];
    let certs = ["cluster", "certs", "--out", "certs"];
    world.run(&[&certs[..], &names].concat()).succeeded();

    let mut led = Led::new(&world, "cut");
    led.more = vec!["cluster.stall_s=20"];
    let address = format!("{}:0", away.here);
    let mut leads = led.coordinator_at(&address, Some("certs/head"));
    let join = led.join(&leads.address, Some("certs/node"));
    let worker = || Process::start(led.join(&leads.address, Some("certs/node")));
    let mut cut_off = Process::start(away.command(&join));
    let mut workers: Vec<Process> = (1..RANKS).map(|_| worker()).collect();
    led.commits(2);
    workers.push(worker()); // it stands by
    let at = std::time::Instant::now();
    away.cut();
    leads.recovers("a worker that is cut off", at, SILENCE);
    cut_off.says_after(at, "the coordinator");
    all_end(&mut workers);
    leads.process.ends_with(0);
    assert_eq!(led.check(), whole);
    cut_off.ends_with(4); // the run ended without it
}
