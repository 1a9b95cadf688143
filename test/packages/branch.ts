// Owns: headquarters and a branch inside the container, set up by the lines of docs/install.md: ticket server, token (SoftHSM2), stored PIN, a till's user.
// Invariants: everything is asked through what is installed: ukeyctl, systemctl, the till's own user and its socket.
import type { Container } from './container.ts';

export interface Issued {
  readonly number: string;
  readonly sequence: number;
  readonly document: string;
  readonly evidence: string;
}

const charter = {
  issuer: { taxId: 'GB123456789', name: 'Example Gifts Ltd', address: ['1 Example Street', 'London'] },
  currency: 'GBP',
  mode: 'hybrid',
  limits: { hours: 72, count: 5000, amount: '250000.00', single: '10000.00' },
  series: [
    { kind: 'invoice', prefix: 'S7-', digits: 7, first: 1, last: 9999999 },
    { kind: 'credit-note', prefix: 'S7C-', digits: 7, first: 1, last: 9999999 },
  ],
};

const watchdogSeconds = 6;
const waitMs = 60_000;
const askEveryMs = 500;

export class Branch {
  readonly container: Container;

  constructor(container: Container) {
    this.container = container;
  }

  setUpHeadquarters(): void {
    const dir = '/var/lib/ukeyd-server';
    this.container.must(`
      systemctl enable --quiet --now ukeyd-server
      for at in $(seq 40); do [ -e ${dir}/tickets.db ] && break; sleep 0.25; done
      cat > charter.json << 'END'
${JSON.stringify(charter)}
END
      install -o ukeyd-server -m 600 charter.json ${dir}/charter.json
      runuser -u ukeyd-server -- ticket-server ticket --dir ${dir} --charter ${dir}/charter.json --file ${dir}/ticket.json
      cp ${dir}/ticket.json ticket.json`);
  }

  /** Names token, FLASH and stored PIN; the unit's own settings stay, but for the watchdog's patience, so that a test need not wait a minute. */
  configure(): void {
    this.container.must(`
      install -d -o ukeyd -g ukey -m 700 /var/lib/ukeyd/softhsm
      printf 'directories.tokendir = /var/lib/ukeyd/softhsm\\nobjectstore.backend = file\\nlog.level = ERROR\\n' > /etc/ukeyd/softhsm2.conf
      mkdir -p /etc/systemd/system/ukeyd.service.d
      printf '[Service]\\nEnvironment=SOFTHSM2_CONF=/etc/ukeyd/softhsm2.conf\\nWatchdogSec=${watchdogSeconds}\\n' > /etc/systemd/system/ukeyd.service.d/shop.conf
      sed -i -e 's|^#module = .*|module = "/usr/lib/softhsm/libsofthsm2.so"|' -e 's|^#flash = .*|flash = "/var/lib/ukeyd/flash.img"|' \\
        -e 's|^#flash_mib = .*|flash_mib = 64|' -e 's|^#pin_credential|pin_credential|' /etc/ukeyd/ukeyd.toml
      umask 077
      echo 135790 > pin
      echo 97531000 > so-pin
      cp pin /etc/credstore/ukeyd.pin
      systemctl daemon-reload`);
  }

  provision(): void {
    this.container.must('ukeyctl provision --ticket ticket.json --label shop-7 --pin-file pin --so-pin-file so-pin');
  }

  /** A user in the group of the tills, and one who is not. */
  addPeople(): void {
    this.container.must(`
      ukeyctl terminal enrol till-1 --secret-file till.secret
      useradd -m -G ukey cashier
      useradd -m stranger
      for user in cashier stranger; do install -o $user -m 600 till.secret /home/$user/till.secret; done`);
  }

  /** Exit status of a till's call, and the answer where there is one. */
  issue(key: string, user = 'cashier'): { readonly status: number | null; readonly issued: Issued | null; readonly said: string } {
    const sale = { key, template: 'retail', lines: [{ description: 'T-light holder', quantity: '6', unitPrice: '2.55' }] };
    const { status, stdout, stderr } = this.container.run(`runuser -u ${user} -- sh -c 'cd
      cat > sale.json << END
${JSON.stringify(sale)}
END
      ukeyctl issue sale.json --terminal till-1 --secret-file till.secret --json'`);
    return { status, issued: status === 0 ? (JSON.parse(stdout) as Issued) : null, said: stdout + stderr };
  }

  mustIssue(key: string): Issued {
    const { issued, said } = this.issue(key);
    if (issued === null) throw new Error(`${key} was not issued: ${said}`);
    return issued;
  }

  status(): { readonly standing: string; readonly backlog: { readonly pending: number } | null } | null {
    const { status, stdout } = this.container.run('ukeyctl status --json');
    return status === 0 ? JSON.parse(stdout) : null;
  }

  show(property: string): string {
    return this.container.must(`systemctl show --value --property=${property} ukeyd.service`);
  }

  /** Waits until a sale is possible; throws with the unit's log when it does not come to that. */
  async untilIssuing(): Promise<void> {
    await this.until('issuing', () => this.status()?.standing.startsWith('issuing') === true);
  }

  async until(what: string, holds: () => boolean, patienceMs = waitMs): Promise<void> {
    const endMs = performance.now() + patienceMs;
    while (!holds()) {
      if (performance.now() > endMs)
        throw new Error(`not ${what} in time:\n${this.container.run('journalctl -u ukeyd --no-pager -n 40').stdout}`);
      await new Promise((resolve) => setTimeout(resolve, askEveryMs));
    }
  }
}
