//! The one owner of the desired state.
//!
//! A thread takes transactions one by one: converts, validates the whole resulting state, has the dataplane prepare it, stores
//! it, publishes it, answers. So an acknowledged transaction is stored and live; one that was not acknowledged, because the process died,
//! is stored as a whole or not at all, since storing is one atomic step; and a refused one changed nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use control_api::Refusal;
use control_api::v1::{self, ChangeAction, Object};
use model::{Changes, DesiredState, ObjectKey, SharedMap, SpecError};
use tokio::sync::{mpsc, oneshot};
use tonic::Code;

use crate::convert;
use crate::dataplane::{Cause, Dataplane, PrepareError};
use crate::store::{Batch, Store, StoreError};
use crate::watch::{Event, Hub, View};

/// Transactions that may wait for their turn.
const QUEUE: usize = 64;

/// How often objects that are stored but not live are tried again.
const RETRY: Duration = Duration::from_secs(5);

/// A handle to the owner's thread. The thread ends when the last handle is gone, or when [`Desired::close`] tells it to.
#[derive(Clone, Debug)]
pub struct Desired {
    commands: mpsc::Sender<Command>,
    hub: Arc<Hub>,
}

/// Why the owner does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What the store holds does not validate: it was written by another version, or by somebody else.
    #[error(
        "the stored desired state is not valid ({first}, {total} errors): restore the store from a backup, or move it away to start empty"
    )]
    Invalid {
        /// One of the errors.
        first: String,
        /// How many.
        total: usize,
    },
    /// The dataplane refuses even what should always be possible.
    #[error("the dataplane does not start: {0}")]
    Dataplane(PrepareError),
    /// It took the stored state, but a worker does not take it up.
    #[error(transparent)]
    NotLive(#[from] crate::dataplane::NotLive),
    /// The operating system gives no thread.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

#[derive(Debug)]
enum Command {
    Apply(
        v1::ApplyRequest,
        oneshot::Sender<Result<v1::ApplyResponse, Refusal>>,
    ),
    Retry,
    Close,
}

impl Desired {
    /// Restores what is stored, makes it live, and starts the owner's thread. Blocks. Must be called inside a Tokio runtime. The second
    /// value resolves when the thread has ended.
    ///
    /// Objects that the machine refuses (a device that is missing) do not keep the rest from being restored: they and what depends on them are noted in
    /// [`View::not_live`] and tried again.
    ///
    /// # Errors
    ///
    /// The store is unreadable, or the dataplane unusable.
    pub fn start(
        store: Box<dyn Store>,
        dataplane: Box<dyn Dataplane>,
    ) -> Result<(Self, oneshot::Receiver<()>), StartError> {
        let mut owner = Owner::restore(store, dataplane)?;
        let hub = Arc::clone(&owner.hub);
        let (commands, queue) = mpsc::channel(QUEUE);
        let (ended, end) = oneshot::channel();
        std::thread::Builder::new()
            .name("desired-state".into())
            .spawn(move || {
                owner.run(queue);
                drop(owner);
                drop(ended);
            })
            .map_err(StartError::Thread)?;
        // Must not keep the owner alive.
        let retry = commands.downgrade();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(RETRY).await;
                let Some(commands) = retry.upgrade() else {
                    break;
                };
                // A full queue or an ended owner needs no retry.
                let _ = commands.try_send(Command::Retry);
            }
        });
        Ok((Self { commands, hub }, end))
    }

    /// Applies a transaction. Answers when it is stored and live.
    ///
    /// # Errors
    ///
    /// It is refused, and nothing has changed. With `INTERNAL`, it may be stored without being live.
    pub async fn apply(&self, request: v1::ApplyRequest) -> Result<v1::ApplyResponse, Refusal> {
        let (reply, answer) = oneshot::channel();
        if self
            .commands
            .send(Command::Apply(request, reply))
            .await
            .is_err()
        {
            return Err(refusal(Code::Unavailable, "the daemon is stopping"));
        }
        answer.await.unwrap_or_else(|_| {
            Err(refusal(
                Code::Internal,
                "the owner of the desired state has stopped; see the daemon's log",
            ))
        })
    }

    /// Ends the owner when it has finished the transactions that wait, whoever else still holds a handle; later ones are refused.
    pub async fn close(&self) {
        // An owner that is gone is closed.
        let _ = self.commands.send(Command::Close).await;
    }

    /// What readers see.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }
}

struct Owner {
    store: Box<dyn Store>,
    dataplane: Box<dyn Dataplane>,
    hub: Arc<Hub>,
    generation: u64,
    objects: SharedMap<ObjectKey, Arc<Object>>,
    /// What the operator wants.
    state: Arc<DesiredState>,
    /// What the dataplane has: `state` without the objects in `faults`.
    live: Arc<DesiredState>,
    faults: Faults,
}

/// Objects that are stored but not live, and why.
type Faults = BTreeMap<ObjectKey, SpecError>;

/// A transaction whose objects are understood.
struct Draft {
    state: Arc<DesiredState>,
    upserts: Vec<(ObjectKey, Arc<Object>)>,
    deletes: Vec<ObjectKey>,
    changes: Vec<v1::Change>,
}

impl Owner {
    fn restore(
        mut store: Box<dyn Store>,
        dataplane: Box<dyn Dataplane>,
    ) -> Result<Self, StartError> {
        let stored = store.load()?;
        let mut objects = SharedMap::default();
        let mut state = DesiredState::default();
        let invalid = |errors: Vec<v1::SpecError>| StartError::Invalid {
            first: errors.first().map(ToString::to_string).unwrap_or_default(),
            total: errors.len(),
        };
        for object in stored.objects {
            let (key, spec) = convert::to_model(&object).map_err(invalid)?;
            // The conversion has checked the name.
            let _ = state.insert(&key.name, spec);
            objects.insert(key, Arc::new(object));
        }
        state
            .validate()
            .map_err(|errors| invalid(errors.iter().map(convert::from_error).collect()))?;
        let mut owner = Self {
            store,
            dataplane,
            hub: Arc::new(Hub::new(View::default())),
            generation: stored.generation,
            objects,
            state: Arc::default(),
            live: Arc::new(DesiredState::default()),
            faults: Faults::new(),
        };
        let state = Arc::new(state);
        let (live, faults) = owner
            .prepare(&state, false, owner.generation, &|_| true)
            .map_err(StartError::Dataplane)?;
        owner.dataplane.publish()?;
        owner.state = state;
        owner.live = live;
        owner.note_faults(faults);
        owner.hub = Arc::new(Hub::new(owner.view()));
        Ok(owner)
    }

    fn run(&mut self, mut queue: mpsc::Receiver<Command>) {
        while let Some(command) = queue.blocking_recv() {
            match command {
                Command::Apply(request, reply) => {
                    // A client that is gone does not take its transaction back.
                    let _ = reply.send(self.apply(&request));
                }
                Command::Retry => self.retry(),
                // What is in the queue still comes.
                Command::Close => queue.close(),
            }
        }
    }

    fn apply(&mut self, request: &v1::ApplyRequest) -> Result<v1::ApplyResponse, Refusal> {
        if let Some(expected) = request.expected_generation
            && expected != self.generation
        {
            let message = format!(
                "the desired state is at generation {}, not at {expected}: read it again and repeat the change",
                self.generation
            );
            return Err(refusal(Code::Aborted, message));
        }
        let draft = self.draft(request)?;
        if draft.upserts.is_empty() && draft.deletes.is_empty() {
            return Ok(v1::ApplyResponse {
                generation: self.generation,
                changes: draft.changes,
            });
        }
        let changes = Changes {
            upserted: draft.upserts.iter().map(|(key, _)| key.clone()).collect(),
            deleted: draft.deletes.iter().cloned().collect(),
        };
        draft.state.validate_change(&changes).map_err(|errors| {
            Refusal::new(
                Code::InvalidArgument,
                errors.iter().map(convert::from_error).collect(),
            )
        })?;

        let generation = self.generation + 1;
        // What was not live before need not be now, but what this transaction brings must be.
        let lost = self.dataplane.lost();
        let mut tolerable = self.known_faults(&lost);
        tolerable.retain(|key| !changes.upserted.contains(key));
        // Where all is live, nothing is different from what is live but what this transaction changes.
        let only_policy = self.faults.is_empty() && changes.only_policy();
        let (live, faults) = self
            .prepare(&draft.state, only_policy, generation, &|key| {
                tolerable.contains(key)
            })
            .map_err(|error| {
                let code = match error.cause {
                    Cause::Environment => Code::FailedPrecondition,
                    Cause::Limit => Code::ResourceExhausted,
                };
                Refusal::new(code, vec![convert::from_error(&error.error)])
            })?;
        if request.dry_run {
            self.dataplane.abandon();
            return Ok(v1::ApplyResponse {
                generation: self.generation,
                changes: draft.changes,
            });
        }

        let upserts: Vec<Arc<Object>> = draft
            .upserts
            .into_iter()
            .map(|(key, object)| {
                let object = Arc::new(self.stamp(&key, &object, generation));
                self.objects.insert(key, Arc::clone(&object));
                object
            })
            .collect();
        let deletes: Vec<v1::ObjectKey> = draft.deletes.iter().map(convert::from_key).collect();
        let batch = Batch {
            generation,
            upserts: &upserts,
            deletes: &deletes,
        };
        if let Err(error) = self.store.commit(&batch) {
            self.dataplane.abandon();
            self.forget(&changes);
            tracing::error!(%error, "a transaction was refused because it cannot be stored");
            return Err(refusal(Code::Unavailable, error));
        }
        let published = self.dataplane.publish();

        for key in &draft.deletes {
            self.objects.remove(key);
        }
        self.generation = generation;
        self.state = draft.state;
        self.live = live;
        self.note_faults(faults);
        self.hub.publish(
            self.view(),
            Event {
                generation,
                upserts,
                deletes: draft.deletes,
            },
        );
        published.map_err(|error| {
            tracing::error!(%error, generation, "a transaction is stored but not live");
            refusal(
                Code::Internal,
                format!("generation {generation} is stored but not live: {error}"),
            )
        })?;
        Ok(v1::ApplyResponse {
            generation,
            changes: draft.changes,
        })
    }

    /// Understands a request: which objects really change, and the state that results.
    fn draft(&self, request: &v1::ApplyRequest) -> Result<Draft, Refusal> {
        let mut errors = Vec::new();
        let mut absent = Vec::new();
        let mut draft = Draft {
            state: Arc::clone(&self.state),
            upserts: Vec::new(),
            deletes: Vec::new(),
            changes: Vec::new(),
        };
        let mut seen = BTreeSet::new();
        for object in &request.upserts {
            match convert::to_model(object) {
                Ok((key, spec)) => {
                    if !seen.insert(key.clone()) {
                        errors.push(error(
                            object.key(),
                            "metadata.name",
                            "is in the transaction twice",
                        ));
                        continue;
                    }
                    let action = match self.objects.get(&key) {
                        None => ChangeAction::Created,
                        Some(old) if same(old, object) => ChangeAction::Unchanged,
                        Some(_) => ChangeAction::Updated,
                    };
                    draft.changes.push(change(&key, action));
                    if action != ChangeAction::Unchanged {
                        // The conversion has checked the name.
                        let _ = Arc::make_mut(&mut draft.state).insert(&key.name, spec);
                        draft.upserts.push((key, Arc::new(object.clone())));
                    }
                }
                Err(wrong) => errors.extend(wrong),
            }
        }
        for key in &request.deletes {
            match convert::to_key(key) {
                Ok(typed) => {
                    if !seen.insert(typed.clone()) {
                        errors.push(error(key.clone(), "", "is in the transaction twice"));
                    } else if Arc::make_mut(&mut draft.state).remove(&typed) {
                        draft.changes.push(change(&typed, ChangeAction::Deleted));
                        draft.deletes.push(typed);
                    } else {
                        absent.push(error(key.clone(), "", "does not exist"));
                    }
                }
                Err(wrong) => errors.push(wrong),
            }
        }
        if !errors.is_empty() {
            errors.extend(absent);
            return Err(Refusal::new(Code::InvalidArgument, errors));
        }
        if !absent.is_empty() {
            return Err(Refusal::new(Code::NotFound, absent));
        }
        Ok(draft)
    }

    /// Has the dataplane prepare a state, without the objects that it cannot make live if those are `tolerable`. Returns what it prepared and
    /// what it had to leave out. `only_policy`: nothing but policy is different
    /// from what is live.
    fn prepare(
        &mut self,
        next: &Arc<DesiredState>,
        mut only_policy: bool,
        generation: u64,
        tolerable: &dyn Fn(&ObjectKey) -> bool,
    ) -> Result<(Arc<DesiredState>, Faults), PrepareError> {
        let mut attempt = Arc::clone(next);
        let mut faults = Faults::new();
        loop {
            let changes = if std::mem::take(&mut only_policy) {
                attempt.policy_changes_since(&self.live)
            } else {
                attempt.changes_since(&self.live)
            };
            let Err(error) = self.dataplane.prepare(&attempt, &changes, generation) else {
                return Ok((attempt, faults));
            };
            let key = error.error.object.clone();
            // Each round takes at least one object out, so this ends.
            if !tolerable(&key) || !attempt.contains(&key) {
                return Err(error);
            }
            let dependants = Arc::make_mut(&mut attempt).remove_with_dependants(&key);
            for dependant in dependants {
                let message = format!(
                    "waits for {key}, which is not live: {}",
                    error.error.message
                );
                let waits = SpecError::new(dependant.clone(), "", message);
                if !tolerable(&dependant) {
                    return Err(PrepareError {
                        cause: error.cause,
                        error: waits,
                    });
                }
                faults.insert(dependant, waits);
            }
            faults.insert(key, error.error);
        }
    }

    /// Tries again what is stored but not live.
    fn retry(&mut self) {
        let lost = self.dataplane.lost();
        if self.faults.is_empty() && lost.is_empty() {
            return;
        }
        for object in &lost {
            tracing::warn!(%object, "its device is gone, or was replaced: it is opened again");
        }
        let known = self.known_faults(&lost);
        let state = Arc::clone(&self.state);
        let Ok((live, faults)) =
            self.prepare(&state, false, self.generation, &|key| known.contains(key))
        else {
            return; // something else went wrong meanwhile: nothing is prepared, and nothing is worse
        };
        if *live == *self.live && lost.is_empty() {
            self.dataplane.abandon();
        } else {
            if let Err(error) = self.dataplane.publish() {
                tracing::error!(%error, "objects are live again, but not on every worker");
            }
            self.live = live;
        }
        if faults != self.faults {
            self.note_faults(faults);
            self.hub.note_not_live(self.not_live());
        }
    }

    /// What need not be made live: it was not before, or it was lost meanwhile, or depends on what was.
    fn known_faults(&self, lost: &BTreeSet<ObjectKey>) -> BTreeSet<ObjectKey> {
        let mut known: BTreeSet<ObjectKey> = self.faults.keys().cloned().collect();
        for key in lost {
            known.extend(DesiredState::clone(&self.state).remove_with_dependants(key));
            known.insert(key.clone());
        }
        known
    }

    fn note_faults(&mut self, faults: Faults) {
        for (key, error) in &faults {
            if self.faults.get(key) != Some(error) {
                tracing::warn!(%error, "stored but not live; it is tried again every {RETRY:?}");
            }
        }
        for key in self.faults.keys().filter(|key| !faults.contains_key(*key)) {
            if self.live.contains(key) {
                tracing::info!(object = %key, "live again");
            }
        }
        self.faults = faults;
    }

    /// Sets what the server sets.
    fn stamp(&self, key: &ObjectKey, object: &Object, generation: u64) -> Object {
        let mut object = object.clone();
        let metadata = object.metadata.get_or_insert_default();
        metadata.generation = generation;
        match self.objects.get(key).and_then(|old| old.metadata.as_ref()) {
            Some(old) => {
                metadata.uid.clone_from(&old.uid);
                metadata
                    .creation_timestamp
                    .clone_from(&old.creation_timestamp);
            }
            None => {
                metadata.uid = new_uid();
                metadata.creation_timestamp = timestamp(SystemTime::now());
            }
        }
        object
    }

    /// Puts the objects of a transaction that could not be stored back to what readers still see.
    fn forget(&mut self, changes: &Changes) {
        let view = self.hub.view();
        for key in &changes.upserted {
            match view.objects.get(key) {
                Some(old) => self.objects.insert(key.clone(), Arc::clone(old)),
                None => self.objects.remove(key),
            };
        }
    }

    fn view(&self) -> View {
        View {
            generation: self.generation,
            objects: self.objects.clone(),
            not_live: self.not_live(),
        }
    }

    fn not_live(&self) -> Vec<v1::SpecError> {
        self.faults.values().map(convert::from_error).collect()
    }
}

fn refusal(code: Code, message: impl ToString) -> Refusal {
    let error = v1::SpecError {
        object: None,
        field: String::new(),
        message: message.to_string(),
    };
    Refusal::new(code, vec![error])
}

fn error(object: v1::ObjectKey, field: &str, message: &str) -> v1::SpecError {
    v1::SpecError {
        object: Some(object),
        field: field.to_owned(),
        message: message.to_owned(),
    }
}

fn change(key: &ObjectKey, action: ChangeAction) -> v1::Change {
    v1::Change {
        object: Some(convert::from_key(key)),
        action: action.into(),
    }
}

/// Whether two versions of an object differ in nothing that a client decides.
fn same(old: &Object, new: &Object) -> bool {
    let decided = |object: &Object| {
        object
            .metadata
            .as_ref()
            .map(|metadata| (metadata.labels.clone(), metadata.annotations.clone()))
    };
    old.spec == new.spec && decided(old).unwrap_or_default() == decided(new).unwrap_or_default()
}

/// A random UUID (RFC 9562 section 5.4).
fn new_uid() -> String {
    use std::hash::{BuildHasher, RandomState};
    // Every RandomState is seeded from the operating system's randomness, and counts on; that makes uids unique, which is all they are for.
    let random = |salt: u8| u128::from(RandomState::new().hash_one(salt));
    let bits = random(0) << 64 | random(1);
    let bits = bits & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{bits:032x}");
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

/// RFC 3339 in UTC, to the second.
fn timestamp(time: SystemTime) -> String {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days to civil date in the proleptic Gregorian calendar, with years that begin in March: a leap day comes last.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_civil_dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(timestamp(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn uids_differ_and_have_their_shape() {
        let (a, b) = (new_uid(), new_uid());
        assert_ne!(a, b);
        assert_eq!(a.len(), 36);
        assert_eq!(&a[14..15], "4");
        assert!(matches!(&a[19..20], "8" | "9" | "a" | "b"));
    }
}
