//! stub
use super::*;
use collectives::Communicator;
#[derive(Debug, thiserror::Error)]
pub enum SaveError { #[error(transparent)] Wire(#[from] wire::Error) }
impl SaveError { pub(crate) fn ends_the_run(&self) -> bool { true } }
#[derive(Debug)]
pub(crate) struct Saved { pub(crate) step: u64, pub(crate) result: Result<(), SaveError>, pub(crate) notes: Vec<String> }
pub(crate) struct SaveThread { root: Root, c: Communicator }
impl SaveThread {
    pub(crate) fn new(root: Root, c: Communicator) -> Self { Self { root, c } }
    pub(crate) fn serve(mut self, requests: &Receiver<Request>, results: &SyncSender<Saved>) {
        for r in requests {
            let result = wire::gather(&mut self.c, &r.state.step).map(|_| ()).map_err(SaveError::from);
            if results.send(Saved { step: r.state.step, result, notes: vec![] }).is_err() { return; }
        }
    }
}
