//! A disk that is full: a small one in memory, mounted for the test.

use std::path::{Path, PathBuf};

use crate::{
    checker,
    led::{Led, WHOLE, all_end},
    processes::{Process, run, until},
    support::World,
};

const DISK_BYTES: u64 = 96 << 20;

/// A disk of 96 MiB.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: PathBuf) -> Result<Self, String> {
        std::fs::create_dir_all(&at).unwrap();
        let size = format!("size={DISK_BYTES}");
        let place = at.to_str().unwrap();
        run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", place])?;
        Ok(Self(at))
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Leaves room for so many bytes.
    fn fill_but(&self, bytes: u64) {
        let taken = DISK_BYTES.checked_sub(bytes).unwrap();
        std::fs::write(self.ballast(), vec![1; taken as usize]).unwrap();
    }

    fn make_room(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a process that is just ending may still have a file open.
        let _ = run("umount", &["-l", self.0.to_str().unwrap()]);
    }
}

/// A disk with room for one checkpoint and a half of the run `whole`, or none where disks cannot be mounted.
fn disk_for_one_checkpoint(world: &World, whole: &Path) -> Option<Disk> {
    match Disk::mount(world.join("disk")) {
        Ok(disk) => {
            disk.fill_but(checker::checkpoint_bytes(whole) * 3 / 2);
            Some(disk)
        }
        Err(why) => {
            println!("not run: {why}");
            None
        }
    }
}

#[test]
#[cfg(not(feature = "gloo"))]
fn a_full_disk_ends_a_run_as_such_with_nothing_half_committed_and_room_lets_it_go_on() {
    let world = World::new();
    let whole = Led::undisturbed(&world);
    let Some(disk) = disk_for_one_checkpoint(&world, &world.join(WHOLE)) else {
        return;
    };
    let alone = Led::new(&world, "disk/alone");
    let mut full = Process::start(alone.alone());
    full.ends_with(4);
    assert!(full.has_said("No space left on device"), "{}", full.said());
    assert_eq!(checker::check_unfinished(&alone.folder), [2]);
    disk.make_room();
    Process::start(alone.alone()).ends_with(0);
    assert_eq!(alone.check(), whole);
}

#[test]
fn a_worker_waits_for_room_on_a_full_disk_then_gives_up_and_the_next_goes_on() {
    let world = World::new();
    let whole = Led::undisturbed(&world);
    let Some(disk) = disk_for_one_checkpoint(&world, &world.join(WHOLE)) else {
        return;
    };
    let mut led = Led::new(&world, "disk/led");
    led.more = vec!["cluster.stall_s=30"];
    let mut leads = led.coordinator(0);
    let mut workers = led.workers(&mut leads);
    let mut full = until("a worker that gives up", || {
        let ended = workers.iter_mut().position(Process::has_ended);
        ended.map(|worker| workers.swap_remove(worker))
    });
    full.ends_with(4);
    for words in ["trying again", "No space left on device"] {
        assert!(full.has_said(words), "{}", full.said());
    }
    assert_eq!(checker::check_unfinished(&led.folder), [2]);
    disk.make_room();
    workers.push(led.worker(&leads));
    all_end(&mut workers);
    leads.process.ends_with(0);
    assert_eq!(led.check(), whole);
}
