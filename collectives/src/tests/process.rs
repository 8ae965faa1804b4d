//! Real processes: a killed one is a lost peer, and its memory goes with the last mapping.

use std::{
    env,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
};

use super::world::{LOOPBACK, PATIENCE, SOON, timed};
use crate::{
    Communicator, DataType, Error, Listener, Mesh, MeshConfig, PeerAddress, ReduceOp, Transport,
};

/// Set in the processes that the test starts: transport, then the addresses of ranks 0 and 1.
const PLAN: &str = "COLLECTIVES_TEST_PLAN";
const TEST: &str = "tests::process::a_killed_process_is_a_lost_peer_on_every_rank";

/// The last rank of three runs in a process of its own, reduces without end, and is killed in the
/// middle of it.
#[test]
fn a_killed_process_is_a_lost_peer_on_every_rank() {
    if let Ok(plan) = env::var(PLAN) {
        return be_the_victim(&plan);
    }
    for transport in [Transport::SharedMemory, Transport::Tcp] {
        let listeners = [(); 2].map(|()| Listener::bind(LOOPBACK).unwrap());
        let mut peers: Vec<PeerAddress> = (0..).zip(&listeners).map(row).collect();
        let mut victim = Victim::start(transport, &peers);
        // The highest rank only dials, so its row needs no address that works.
        peers.push(PeerAddress { rank: 2, ..peers[0].clone() });
        let meshes: Vec<Mesh> = std::thread::scope(|scope| {
            let ranks: Vec<_> = (0..)
                .zip(listeners)
                .map(|(rank, listener)| {
                    let config = config(rank, transport, peers.clone());
                    scope.spawn(|| Mesh::connect(Some(listener), config).unwrap())
                })
                .collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        });
        let (errors, took) = std::thread::scope(|scope| {
            let ranks: Vec<_> =
                meshes.iter().map(|mesh| scope.spawn(|| reduce_until_error(mesh))).collect();
            victim.wait_until_it_reduces();
            victim.0.kill().unwrap();
            timed(|| ranks.into_iter().map(|rank| rank.join().unwrap()).collect::<Vec<_>>())
        });
        assert!(took < SOON, "{took:?}");
        for error in errors {
            assert!(matches!(error, Error::PeerLost { rank: 2, .. }), "{transport:?}: {error}");
        }
    }
}

fn reduce_until_error(mesh: &Mesh) -> Error {
    let mut communicator = mesh.communicator(0).unwrap();
    loop {
        if let Err(error) = reduce(&mut communicator) {
            return error;
        }
    }
}

fn reduce(communicator: &mut Communicator) -> Result<(), Error> {
    communicator.all_reduce(&mut vec![0; 2 << 20], DataType::F32, ReduceOp::Sum)
}

fn be_the_victim(plan: &str) {
    let mut words = plan.split(' ').map(str::to_owned);
    let mut word = || words.next().unwrap();
    let transport = if word() == "Tcp" { Transport::Tcp } else { Transport::SharedMemory };
    let peers = (0..2)
        .map(|rank| {
            let (address, unix_name) = (word().parse().unwrap(), word());
            PeerAddress { rank, address, unix_name, worker: "test".to_owned() }
        })
        .collect();
    let mesh = Mesh::connect(None, config(2, transport, peers)).unwrap();
    let mut communicator = mesh.communicator(0).unwrap();
    loop {
        reduce(&mut communicator).unwrap();
        writeln!(std::io::stdout(), "reduced").unwrap();
    }
}

fn row((rank, listener): (u32, &Listener)) -> PeerAddress {
    let (address, unix_name) = (listener.address(), listener.unix_name().to_owned());
    PeerAddress { rank, address, unix_name, worker: "test".to_owned() }
}

fn config(rank: u32, transport: Transport, peers: Vec<PeerAddress>) -> MeshConfig {
    MeshConfig {
        rank,
        world: 3,
        token: [9; 16],
        peers,
        transport,
        connect_timeout: PATIENCE,
        collective_timeout: PATIENCE,
        channels: 1,
        has_own_cores: false,
    }
}

/// This test binary again, as rank 2. Its stdin keeps it from outliving a failed test.
struct Victim(Child, #[expect(dead_code, reason = "held open")] Option<ChildStdin>);

impl Victim {
    fn start(transport: Transport, peers: &[PeerAddress]) -> Self {
        let addresses: Vec<String> =
            peers.iter().map(|peer| format!("{} {}", peer.address, peer.unix_name)).collect();
        let plan = format!("{transport:?} {}", addresses.join(" "));
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", TEST, "--nocapture"])
            .env(PLAN, plan)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        Self(child, stdin)
    }

    fn wait_until_it_reduces(&mut self) {
        let lines = BufReader::new(self.0.stdout.as_mut().unwrap()).lines();
        assert!(lines.map(Result::unwrap).any(|line| line.contains("reduced")));
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // It fails only if the child has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
