// Owns: the life of an installed branch, in order: each chapter does one thing as its administrator would, and ends in one line of figures.
// Invariants: what must hold is checked where it is done; a till's invoices are compared byte for byte; nothing is waited for without an end.
import type { Branch, Issued } from './branch.ts';
import { tryWalls } from './walls.ts';

export interface Chapter {
  readonly name: string;
  /** Answers its figures; throws when it cannot go on. */
  run(branch: Branch, holds: (isHeld: boolean, what: string) => void): Promise<string>;
}

/** What the tills have been given so far, by key: whatever happens, it must stay so. */
const given = new Map<string, Issued>();

const exposureMax = 1.8;
const stopMaxSeconds = 90;
const packages = (revision: number): string => `/packages/ukeyd_*-${revision}_*.deb /packages/ukeyd-server_*-${revision}_*.deb`;

function sell(branch: Branch, key: string): Issued {
  const issued = branch.mustIssue(key);
  given.set(key, issued);
  return issued;
}

/** How many of the invoices that were given come back as other bytes, or not at all. */
function changedInvoices(branch: Branch): number {
  const isSame = (key: string, before: Issued): boolean => {
    const after = branch.issue(key).issued;
    return after !== null && after.document === before.document && after.evidence === before.evidence && after.number === before.number;
  };
  return [...given].filter(([key, before]) => !isSame(key, before)).length;
}

const install: Chapter = {
  name: 'install',
  async run({ container }, holds) {
    container.must(`dpkg -i ${packages(1)}`);
    holds(/uid=\d+\(ukeyd\) gid=\d+\(ukey\)/.test(container.must('id ukeyd')), 'the user ukeyd has not the group ukey');
    holds(container.run('systemctl is-active ukeyd.service').stdout.trim() === 'inactive', 'the service was started unasked');
    holds(container.run('systemctl is-enabled ukeyd.service').stdout.trim() === 'disabled', 'the service was enabled unasked');
    const altered = container.run('dpkg --verify ukeyd ukeyd-server').stdout;
    holds(altered === '', `files are not as packed: ${altered}`);
    const rules = container.run("udevadm test /sys/class/mem/null 2>&1 | grep 65-ukeyd | grep -v '^Reading'").stdout;
    holds(rules === '', `udev says of its rules: ${rules}`);
    container.must(`printf 'ukeyd:v1234p5678s*\\n UKEYD_FLASH=1\\n' > /etc/udev/hwdb.d/ukeyd.hwdb && systemd-hwdb update`);
    holds(container.must("systemd-hwdb query 'ukeyd:v1234p5678s0815'") === 'UKEYD_FLASH=1', 'a named stick is not found');
    const verified = container.run('systemd-analyze verify --man=no ukeyd.service ukeyd-server.service 2>&1').stdout;
    holds(verified === '', `systemd-analyze verify: ${verified}`);
    const exposure = Number(
      /exposure level for ukeyd.service: ([\d.]+)/.exec(container.run('systemd-analyze security ukeyd.service').stdout)?.[1],
    );
    holds(exposure <= exposureMax, `exposure ${exposure}`);
    return `users=yes started=no exposure=${exposure}`;
  },
};

const wrongConfiguration: Chapter = {
  name: 'wrong-configuration',
  async run(branch, holds) {
    branch.container.run('systemctl start ukeyd'); // the configuration as shipped names no token
    await branch.until('refused', () => branch.show('ActiveState') === 'failed');
    holds(branch.show('ExecMainStatus') === '2', `the service ended with ${branch.show('ExecMainStatus')}`);
    holds(branch.show('NRestarts') === '0', 'a wrong configuration was tried again');
    return 'exit=2 restarts=0';
  },
};

const firstInvoice: Chapter = {
  name: 'first-invoice',
  async run(branch, holds) {
    branch.setUpHeadquarters();
    branch.configure();
    branch.container.must('systemctl enable --quiet ukeyd && systemctl restart ukeyd'); // Type=notify: returns when READY=1 has come
    branch.provision();
    branch.addPeople();
    const first = sell(branch, 'sale-1');
    holds(first.number === 'S7-0000001', `the first number is ${first.number}`);
    holds(branch.issue('sale-x', 'stranger').status === 4, 'a user outside the group reached the service');
    await branch.until('acknowledged', () => branch.status()?.backlog?.pending === 0);
    await branch.until('told to the manager', () => branch.show('StatusText').startsWith('issuing')); // with the next proof of progress
    return `number=${first.number} stranger=refused`;
  },
};

const credential: Chapter = {
  name: 'credential',
  async run(branch, holds) {
    branch.container.must('systemctl restart ukeyd');
    await branch.untilIssuing(); // nobody typed a PIN
    holds(changedInvoices(branch) === 0, 'an invoice changed');
    // A credential that is encrypted takes the place of the plain one.
    branch.container.must(`systemd-creds encrypt --with-key=host --name=ukeyd.pin pin /etc/credstore.encrypted/ukeyd.pin
      printf '[Service]\\nLoadCredentialEncrypted=ukeyd.pin\\n' > /etc/systemd/system/ukeyd.service.d/pin.conf
      rm /etc/credstore/ukeyd.pin && systemctl daemon-reload && systemctl restart ukeyd`);
    await branch.untilIssuing();
    const pid = branch.show('MainPID');
    const told = branch.container.must(
      `journalctl -u ukeyd --no-pager -o cat; tr '\\0' '\\n' < /proc/${pid}/environ; tr '\\0' '\\n' < /proc/${pid}/cmdline`,
    );
    holds(!told.includes('135790'), 'the PIN stands in log, environment or arguments');
    return 'plain=yes encrypted=yes';
  },
};

const walls: Chapter = {
  name: 'walls',
  async run({ container }, holds) {
    const { tried, denied, passed, void: unsaid } = tryWalls(container);
    holds(passed.length === 0, `got through: ${passed.join(', ')}`);
    holds(tried >= 8, `only ${tried} trespasses say anything here; void: ${unsaid.join(', ')}`);
    return `denied=${denied}/${tried}`;
  },
};

const watchdog: Chapter = {
  name: 'watchdog',
  async run(branch, holds) {
    const before = branch.show('MainPID');
    branch.container.must(`kill -STOP ${before}`);
    await branch.until('started anew', () => branch.show('MainPID') !== before && branch.show('ActiveState') === 'active');
    const reason = branch.container.must('journalctl -u ukeyd --no-pager -o cat | grep -c "result \'watchdog\'"');
    holds(reason === '1', `systemd names ${reason} watchdog failures`);
    await branch.untilIssuing();
    holds(changedInvoices(branch) === 0, 'an invoice changed');
    const front = branch.show('MainPID');
    // A holder that hangs is its parent's to replace: the service goes on.
    branch.container.must(`kill -STOP $(pgrep --parent ${front} --full holder/child)`);
    await branch.until(
      'with a new holder',
      () => branch.container.run(`ps -o stat= -p $(pgrep --parent ${front} --full holder/child)`).stdout.startsWith('S'),
      90_000,
    );
    await branch.untilIssuing();
    holds(branch.show('MainPID') === front, 'the service was killed for a holder that hung');
    sell(branch, 'sale-2');
    const limit = branch.container.must(`grep 'core file' /proc/${front}/limits`);
    holds(/size +1 +1 /.test(limit), `core images: ${limit}`);
    return 'front=restarted holder=replaced lost=0';
  },
};

const stop: Chapter = {
  name: 'stop',
  async run(branch, holds) {
    const startedMs = performance.now();
    branch.container.must('systemctl stop ukeyd');
    const seconds = (performance.now() - startedMs) / 1_000;
    holds(branch.show('Result') === 'success', `stopping ended as ${branch.show('Result')}`);
    holds(seconds < stopMaxSeconds / 2, `stopping took ${seconds.toFixed(0)} s`);
    branch.container.must('systemctl start ukeyd');
    await branch.untilIssuing();
    return `result=success took_s=${seconds.toFixed(1)}`;
  },
};

const upgrade: Chapter = {
  name: 'upgrade',
  async run(branch, holds) {
    branch.container.must('systemctl stop ukeyd-server'); // a backlog is on its way through the upgrade
    const before = sell(branch, 'sale-3');
    branch.container.must(`dpkg -i ${packages(2)} 2>&1`);
    await branch.untilIssuing();
    holds(branch.show('UnitFileState') === 'enabled', 'the service is not enabled any more');
    holds(branch.container.must('grep -c "^pin_credential" /etc/ukeyd/ukeyd.toml') === '1', 'the configuration was replaced');
    const changed = changedInvoices(branch);
    holds(changed === 0, `${changed} invoices changed`);
    const pending = branch.status()?.backlog?.pending ?? 0;
    holds(pending >= 1, 'the backlog is gone');
    const after = sell(branch, 'sale-4');
    holds(Number(after.number.slice(3)) === Number(before.number.slice(3)) + 1, `${after.number} follows ${before.number}`);
    return `data_kept=${changed === 0 ? 'yes' : 'no'} pending=${pending}`;
  },
};

const remove: Chapter = {
  name: 'remove',
  async run(branch, holds) {
    const pendingBefore = branch.status()?.backlog?.pending ?? 0;
    branch.container.must('dpkg -r ukeyd-server ukeyd 2>&1');
    holds(branch.container.run('test -e /usr/lib/ukeyd/bin/node').status !== 0, 'the program is still there');
    holds(branch.container.run('pgrep -u ukeyd').status === 1, 'a process of the service is left');
    branch.container.must(`dpkg -i ${packages(2)} 2>&1; systemctl start ukeyd`);
    await branch.untilIssuing();
    const changed = changedInvoices(branch);
    holds(changed === 0, `${changed} invoices changed`);
    const pending = branch.status()?.backlog?.pending ?? 0;
    holds(pending === pendingBefore && pending > 0, `backlog of ${pendingBefore} before, ${pending} after`);
    return `data_kept=${changed === 0 ? 'yes' : 'no'} pending=${pending}`;
  },
};

const purge: Chapter = {
  name: 'purge',
  async run(branch, holds) {
    const { container } = branch;
    const saved = 'cp -a /etc/ukeyd /root/etc-ukeyd && cp -a /etc/systemd/system/ukeyd.service.d /root/unit';
    const said = container.must(`${saved}; systemctl stop ukeyd-server; dpkg -r ukeyd-server 2>&1; dpkg -P ukeyd 2>&1`); // nobody answers: the answer is no
    holds(said.includes('is kept'), 'purging does not say what it kept');
    holds(container.run('ls /var/lib/ukeyd/mirror-*.img').status === 0, 'a backlog was deleted unasked');
    container.must(
      `dpkg -i ${packages(2)} 2>&1; cp -a /root/etc-ukeyd/. /etc/ukeyd/; systemctl enable --quiet --now ukeyd-server; systemctl enable --quiet ukeyd; systemctl start ukeyd`,
    );
    await branch.untilIssuing();
    const changed = changedInvoices(branch);
    holds(changed === 0, `${changed} invoices changed`);
    await branch.until('acknowledged', () => branch.status()?.backlog?.pending === 0);
    return `data_kept=${changed === 0 ? 'yes' : 'no'}`;
  },
};

const verify: Chapter = {
  name: 'verify',
  async run({ container }, holds) {
    const ask =
      "require('https').get('https://127.0.0.1:8443/v1/authority',{rejectUnauthorized:false},(a)=>a.pipe(require('fs').createWriteStream('/tmp/authority.der')))";
    container.must(`/usr/lib/ukeyd/bin/node -e "${ask}"`);
    const said = container.must(`install -o ukeyd -m 600 pin /tmp/pin
      runuser -u ukeyd -- env SOFTHSM2_CONF=/etc/ukeyd/softhsm2.conf ukeyctl verify --config /etc/ukeyd/ukeyd.toml --pin-file /tmp/pin --authority /tmp/authority.der --json`);
    const found = JSON.parse(said) as { readonly entries?: number };
    holds((found.entries ?? 0) >= given.size, `verified: ${said}`);
    return `entries=${found.entries} invoices=${given.size}`;
  },
};

const forcedPurge: Chapter = {
  name: 'forced-purge',
  async run({ container }, holds) {
    container.must(`dpkg -r ukeyd-server 2>&1; echo 'ukeyd ukeyd/delete-state boolean true' | debconf-set-selections; dpkg -P ukeyd 2>&1`);
    holds(container.run('test -e /var/lib/ukeyd').status !== 0, 'the state is still there');
    holds(container.run('ls -d /etc/ukeyd/ukeyd.toml /var/cache/ukeyd /usr/lib/ukeyd').stdout === '', 'something is left');
    holds(container.run('test -e /var/lib/ukeyd-server/tickets.db').status === 0, "the ticket server's invoices were deleted");
    return 'state=deleted server=kept';
  },
};

const userService: Chapter = {
  name: 'user-service',
  async run(branch, holds) {
    const { container } = branch;
    container.must(`dpkg -i ${packages(2)} 2>&1; loginctl enable-linger cashier`);
    const uid = container.must('id -u cashier');
    const asUser = (script: string): string => `runuser -u cashier -- env XDG_RUNTIME_DIR=/run/user/${uid} sh -c 'cd; ${script}'`;
    await branch.until('there for the user', () => container.run(asUser('systemctl --user is-system-running')).stdout.trim() === 'running');
    container.must(
      asUser(`mkdir -p .config/ukeyd && cat > .config/ukeyd/ukeyd.toml << END
state = "/home/cashier/.local/state/ukeyd"
socket = "/run/user/${uid}/ukeyd/ukeyd.sock"
admin_socket = "/run/user/${uid}/ukeyd/ukeyd-admin.sock"
[token]
soft_token = "/home/cashier/token.json"
flash = "/home/cashier/flash.img"
END
systemctl --user enable --now ukeyd`),
    );
    const said = container.must(asUser(`ukeyctl status --json --socket /run/user/${uid}/ukeyd/ukeyd-admin.sock`));
    const { standing } = JSON.parse(said) as { readonly standing: string };
    holds(standing === 'no-token', `standing ${standing}`); // blank: nobody has provisioned it
    container.must(asUser('systemctl --user stop ukeyd'));
    const result = container.must(asUser('systemctl --user show --value --property=Result ukeyd'));
    holds(result === 'success', `stopping ended as ${result}`);
    return `standing=${standing} result=${result}`;
  },
};

/** The scriptlets under rpm itself; the system is still Debian, so what it needs of other packages is not asked. */
const rpm: Chapter = {
  name: 'rpm',
  async run(branch, holds) {
    const { container } = branch;
    const files = (revision: number): string => `/packages/ukeyd-[0-9]*-${revision}.*.rpm /packages/ukeyd-server-*-${revision}.*.rpm`;
    container.must(`dpkg -r ukeyd 2>&1; dpkg -P ukeyd ukeyd-server 2>&1; rpm -i --nodeps ${files(1)} 2>&1`);
    holds(container.run('rpm -V --nodeps ukeyd ukeyd-server').stdout === '', 'files are not as packed');
    holds(container.run('systemctl is-active ukeyd.service').stdout.trim() === 'inactive', 'the service was started unasked');
    branch.configure();
    container.must('systemctl enable --quiet --now ukeyd');
    holds(branch.status()?.standing === 'no-token', `standing ${branch.status()?.standing}`); // blank
    const before = branch.show('MainPID');
    container.must(`rpm -U --nodeps ${files(2)} 2>&1`);
    holds(branch.show('ActiveState') === 'active' && branch.show('MainPID') !== before, 'the upgrade did not start it again');
    holds(container.must('grep -c "^pin_credential" /etc/ukeyd/ukeyd.toml') === '1', 'the configuration was replaced');
    container.must('rpm -e ukeyd-server ukeyd 2>&1');
    holds(container.run('pgrep -u ukeyd').status === 1, 'a process of the service is left');
    holds(container.run('test -e /var/lib/ukeyd/softhsm').status === 0, 'the state was deleted');
    const left = container.run('find /usr/lib/ukeyd 2>/dev/null | head -5').stdout;
    holds(left === '', `of the program is still there: ${left}`);
    return 'upgraded=yes data_kept=yes';
  },
};

export const chapters: readonly Chapter[] = [
  ...[
    install,
    wrongConfiguration,
    firstInvoice,
    credential,
    walls,
    watchdog,
    stop,
    upgrade,
    remove,
    purge,
    verify,
    forcedPurge,
    userService,
    rpm,
  ],
];
