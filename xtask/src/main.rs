//! The project's own chores: `cargo xtask test`, and what goes with it.

mod bench_peers;
mod clients;
mod device_check;
mod goldens;
mod peers;
mod setup;
mod shell;
mod test;

use clap::{Parser, Subcommand};

/// Chores of the ds4 project.
#[derive(Parser)]
#[command(name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    Test(test::Test),
    Clients(clients::Clients),
    Setup(setup::Setup),
    Goldens(goldens::Goldens),
    DeviceCheck(device_check::DeviceCheck),
    Peers(peers::Peers),
    BenchPeers(bench_peers::BenchPeers),
    #[command(hide = true)]
    Spin(bench_peers::Spin),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().chore {
        Chore::Test(chore) => chore.run(),
        Chore::Clients(chore) => chore.run(),
        Chore::Setup(chore) => chore.run(),
        Chore::Goldens(chore) => chore.run(),
        Chore::DeviceCheck(chore) => chore.run(),
        Chore::Peers(chore) => chore.run(),
        Chore::BenchPeers(chore) => chore.run(),
        Chore::Spin(chore) => chore.run(),
    }
}
