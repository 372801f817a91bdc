//! What is sent, and what is asked of the store again.

use std::time::Duration;

use super::{super::*, Coordinator, Examination, Pending, Phase};
use crate::settings::RETRY;

impl Coordinator {
    pub(super) fn retry(&mut self, now: Duration) {
        let due = |pending: &Pending| !pending.in_flight && now >= pending.not_before;
        if let Some(pending) = self.append.as_mut().filter(|pending| due(pending)) {
            pending.in_flight = true;
            pending.not_before = now + RETRY;
            pending.since.get_or_insert(now);
            self.actions.push(Action::Append {
                index: self.remembered.next_index,
                entry: pending.entry.clone(),
            });
        }
        if let Some(pending) = self.publish.as_mut().filter(|pending| due(pending)) {
            pending.in_flight = true;
            pending.not_before = now + RETRY;
            pending.since.get_or_insert(now);
            self.actions.push(Action::Publish(pending.entry.clone()));
        }
        let asks = matches!(self.phase, Phase::Gathering(_));
        let due = |e: &Examination| asks && !e.in_flight && now >= e.not_before;
        if let Some(examination) = self.examine.as_mut().filter(|e| due(e)) {
            examination.in_flight = true;
            examination.not_before = now + RETRY;
            let step = examination.step;
            self.actions.push(Action::Examine { step });
        }
    }

    pub(super) fn flush(&mut self) {
        let replaced = matches!(self.outcome(), Some(Outcome::Fenced { .. }));
        for id in std::mem::take(&mut self.dirty) {
            if replaced {
                // The run goes on elsewhere.
                self.refuse(id, Refusal::Replaced);
                continue;
            }
            let view = self.view(id);
            if let Some(view) = view {
                self.send(id, ToMember::View(view));
            }
        }
    }

    pub(super) fn view(&mut self, id: MemberId) -> Option<MemberView> {
        let known = self.members.get(&id)?;
        let mut view = MemberView {
            seq: known.view_seq + 1,
            generation: self.remembered.generation,
            committed: self.committed,
            end: self.end,
            ..MemberView::default()
        };
        match &self.phase {
            Phase::Working {
                world,
                ranks,
                pause,
                ..
            } if ranks.of_member(id).is_some() => {
                view.working = true;
                view.lease = known.lease;
                view.pause = *pause;
                view.barrier = ranks.barrier();
                let begun = known.status.as_ref().map(|status| status.generation);
                if begun != Some(world.generation) {
                    view.world = Some(world.clone());
                }
            }
            Phase::Ended { outcome, .. } => view.outcome = Some(outcome.clone()),
            _ => {}
        }
        self.members.get_mut(&id)?.view_seq += 1;
        Some(view)
    }

    pub(super) fn answer(&mut self, answers: Vec<(MemberId, ToMember)>) {
        for (member, message) in answers {
            self.send(member, message);
        }
    }

    pub(super) fn refuse(&mut self, member: MemberId, refusal: Refusal) {
        self.send(member, ToMember::Refused(refusal));
    }

    pub(super) fn send(&mut self, member: MemberId, message: ToMember) {
        self.actions.push(Action::Send(CoordinatorFrame {
            coordinator: self.settings.id,
            member,
            message,
        }));
    }

    pub(super) fn log(&mut self, notice: Notice) {
        self.actions.push(Action::Log(notice));
    }
}
