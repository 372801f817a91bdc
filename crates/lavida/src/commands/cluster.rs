//! `lavida cluster certs`: an authority, and a folder of certificates for each machine of a cluster.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use lavida_cluster::shell::Authority;
use lavida_data::{Error, Result};
use lavida_dataflow::clock::{Clock, SystemClock};
use lavida_store::local_path;
use lavida_terminal::screen;

/// The authority's folder below `--out`.
const AUTHORITY: &str = "authority";

#[derive(Debug, Args)]
pub struct ClusterArgs {
    #[command(subcommand)]
    pub command: ClusterCommand,
}

/// What to prepare.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Write an authority and a folder of certificates for each machine, for connections off loopback
    ///
    /// DIR/authority (ca.pem, ca-key.pem, cookie) stays where it is: whoever has ca-key.pem can let anybody in. Each other
    /// folder (ca.pem, node.pem, node-key.pem, cookie) goes to its machine. The command again, with further names, uses
    /// the authority that is there. Nothing is overwritten.
    Certs(CertsArgs),
}

#[derive(Debug, Args)]
pub struct CertsArgs {
    /// Folder for the authority and one folder for each machine
    #[arg(long, value_name = "DIR", value_parser = local_path)]
    pub out: PathBuf,
    /// Host name or address under which others reach a machine, or several separated by commas; once for each machine
    #[arg(long, value_name = "HOST", required = true)]
    pub name: Vec<String>,
    /// Days from now for which the certificates count
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub days: u32,
}

pub fn run(args: &ClusterArgs) -> anyhow::Result<()> {
    match &args.command {
        ClusterCommand::Certs(args) => certs(args)?,
    }
    Ok(())
}

fn certs(args: &CertsArgs) -> Result<()> {
    let now = SystemClock::default().wall();
    let machines = machines(&args.out, &args.name)?;
    let folder = args.out.join(AUTHORITY);
    let is_new = !folder.exists();
    let authority = if is_new {
        Authority::new(now, args.days)?
    } else {
        Authority::read(&folder, now, args.days)?
    };
    // All that can be refused is refused before the first file is written.
    let certificates: Vec<_> = machines
        .iter()
        .map(|(_, names)| authority.certify(names))
        .collect::<Result<_>>()?;
    if is_new {
        authority.write(&folder)?;
    }
    let whose = if is_new {
        "new"
    } else {
        "the one that was there"
    };
    let at = folder.display();
    screen::line(&format!(
        "authority: {at} ({whose}); keep it here, ca-key.pem lets anybody in"
    ));
    for ((folder, names), files) in machines.iter().zip(certificates) {
        files.write(folder)?;
        let at = folder.display();
        let (copy, reached) = (&names[0], names.join(", "));
        screen::line(&format!(
            "{at}: copy the folder to {copy}; certificate for {reached}"
        ));
    }
    screen::line(&format!(
        "the certificates count for {} days from now",
        args.days
    ));
    Ok(())
}

/// The folder and the names of each machine.
fn machines(out: &Path, names: &[String]) -> Result<Vec<(PathBuf, Vec<String>)>> {
    let mut machines: Vec<(PathBuf, Vec<String>)> = Vec::new();
    for names in names {
        let names: Vec<String> = names
            .split(',')
            .map(|name| name.trim().to_owned())
            .collect();
        let folder = out.join(&names[0]);
        if names[0] == AUTHORITY || machines.iter().any(|(other, _)| *other == folder) {
            let expected = format!("a folder for each machine, and none called {AUTHORITY}");
            return Err(Error::invalid("--name", expected, &names[0]));
        }
        if folder.exists() && !names[0].is_empty() {
            let what = folder.display().to_string();
            return Err(Error::Exists { what });
        }
        machines.push((folder, names));
    }
    Ok(machines)
}
