// Owns: which errand of the desk answers which method that is about one token.
// Invariant: every such method of the table has one; those of the audit's table are noted.
// Must not: keep anything; the parts are place.ts's.
import type { Audit } from '#desk/audit.ts';
import { auditList } from '#desk/audit-list.ts';
import { audited } from '#desk/audited.ts';
import * as backlog from '#desk/backlog.ts';
import type { Deliveries } from '#desk/deliveries.ts';
import * as find from '#desk/find.ts';
import type { Handover } from '#desk/handover.ts';
import type { IdleLock } from '#desk/idle-lock.ts';
import * as issuing from '#desk/issue.ts';
import { LedgerReading } from '#desk/ledger-read.ts';
import * as provisioning from '#desk/provision.ts';
import { renewCertificate } from '#desk/renewal.ts';
import * as restoring from '#desk/restore.ts';
import { resume } from '#desk/resume.ts';
import * as session from '#desk/session.ts';
import * as status from '#desk/status.ts';
import { checkStore } from '#desk/store-check.ts';
import { mendStore } from '#desk/store-mend.ts';
import type { UnattendedLogin } from '#desk/unattended-login.ts';
import type { Clock } from '#ground/clock.ts';
import type { Log } from '#ground/log.ts';
import { sharing } from '#ground/sharing.ts';
import type { Holder } from '#holder/holder.ts';
import type { Handlers } from '#ipc/serve.ts';
import type { Methods, TokenMethod } from '#ipc-schema/methods.ts';
import type { Link } from '#ipc-schema/status.ts';
import type { Custody } from '#ledger/custody.ts';
import type { CertificateRenewal } from '#upload/certificate-renewal.ts';

export interface ErrandParts {
  readonly custody: Custody;
  readonly holder: Holder;
  readonly clock: Clock;
  readonly log: Log;
  readonly deliveries: Deliveries;
  link(): Link;
  readonly waiting: backlog.BacklogParts;
  readonly standing: status.StatusParts;
  readonly unattended: UnattendedLogin | null;
  readonly idle: IdleLock;
  readonly audit: Audit;
  readonly renewal: CertificateRenewal;
  readonly provision: provisioning.ProvisionParts;
  readonly handover: Handover;
}

export type Errands = Pick<Handlers<Methods>, TokenMethod>;

export function errandsOf(parts: ErrandParts): Errands {
  const { custody, holder, clock, log, deliveries, link, waiting, standing, unattended, idle, audit, renewal, provision, handover } = parts;
  const door = { custody, holder, unattended };
  const reading = new LedgerReading(custody, holder);
  const issue = { custody, clock, deliveries, log, link };
  return audited(audit, {
    'invoice.issue': (caller, params) => issuing.issue(issue, caller.terminal, params),
    'invoice.preview': (caller, params) => issuing.preview(issue, caller.terminal, params),
    'invoice.get': (caller, params) => find.get(custody, caller.terminal, params),
    'invoice.last': (caller) => find.last(custody, caller.roles.includes('auditor') ? null : caller.terminal),
    'ledger.read': (_caller, params) => reading.read(params),
    'audit.list': (_caller, params) => auditList({ custody, holder, audit, reading }, params),
    'session.login': (_caller, params) => idle.working(() => session.login(door, params)),
    'session.logout': () => idle.leaveToPerson(() => session.logout(door)),
    'session.changePin': (_caller, params) => session.changePin(door, params),
    'session.unblock': (_caller, params) => session.unblock(door, params),
    'backlog.status': () => backlog.status(waiting),
    'backlog.flush': () => backlog.flush(waiting),
    'service.status': sharing(() => status.serviceStatus(standing)),
    'service.identity': () => status.identity(custody),
    'token.provision': (_caller, params) => provisioning.provision(provision, params),
    'token.handOver': () => handover.handOver(),
    'token.takeBack': (_caller, params) => handover.takeBack(params),
    'token.renewCertificate': () => renewCertificate(custody, renewal),
    'store.restore': (_caller, params) => restoring.restore({ ...provision, unattended }, params),
    'store.check': (_caller, params) => idle.working(() => checkStore({ custody, holder, log }, params)),
    'store.mend': (_caller, params) => mendStore({ custody, holder, unattended, log }, params),
    'store.resume': (_caller, params) => resume({ ...provision, unattended }, params),
  });
}
