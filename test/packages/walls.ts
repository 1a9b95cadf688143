// Owns: what the unit's walls keep out, tried from inside them: the installed unit itself, with another program in it.
// Invariants: each trespass is tried without the walls as well, by root; only one that succeeds there counts, so that no wall is credited with what fails anyway.
import type { Container } from './container.ts';

/** Each ends with status 0 when it got through. */
const trespasses: Readonly<Record<string, string>> = {
  'write /usr': 'touch /usr/lib/ukeyd/daemon/planted.js',
  'write /etc': 'touch /etc/planted',
  'read homes': 'ls /home/cashier',
  'read the store of PINs': 'cat /etc/credstore/ukeyd.pin',
  'become root': 'setpriv --reuid=0 --clear-groups true',
  'own namespaces': 'unshare --user --mount true',
  mount: 'mount -t tmpfs none /tmp',
  'change the host name': 'hostname planted',
  'set-user-id files': 'cp /bin/true "$T/planted" && chmod u+s "$T/planted"',
  'see other processes': 'test -r /proc/1/cmdline && ps -e -o pid= | grep -qx " *1"',
  'realtime scheduling': 'chrt --fifo 1 true',
  'settings of the kernel': 'echo 1 > /proc/sys/vm/drop_caches || echo planted > /proc/sys/kernel/hostname',
  'control groups': 'mkdir /sys/fs/cgroup/systemd/planted || mkdir /sys/fs/cgroup/planted',
};

export interface Walls {
  readonly tried: number;
  readonly denied: number;
  readonly passed: readonly string[];
  /** Failed without the walls as well: says nothing here. */
  readonly void: readonly string[];
}

export function tryWalls(container: Container): Walls {
  const outside = outcomes(container, false);
  const inside = outcomes(container, true);
  const counted = Object.keys(trespasses).filter((name) => outside.has(name));
  const passed = counted.filter((name) => inside.has(name));
  return {
    ...{ tried: counted.length, denied: counted.length - passed.length, passed },
    void: Object.keys(trespasses).filter((name) => !outside.has(name)),
  };
}

/** Names of those that got through. */
function outcomes(container: Container, isWalled: boolean): ReadonlySet<string> {
  const lines = Object.entries(trespasses).map(([name, script]) => `if (${script}) > /dev/null 2>&1; then echo 'through: ${name}'; fi`);
  container.must(`cat > /usr/local/bin/trespass << 'END'
#!/bin/sh
T=$(mktemp -d)
${lines.join('\n')}
echo 'through: all were tried'
END
chmod 755 /usr/local/bin/trespass`);
  const said = isWalled ? walled(container) : container.must('unshare --mount --uts /usr/local/bin/trespass');
  container.run('rm -f /etc/planted /usr/lib/ukeyd/daemon/planted.js; rmdir /sys/fs/cgroup/systemd/planted /sys/fs/cgroup/planted');
  const names = new Set([...said.matchAll(/^through: (.+)$/gm)].map(([, name = '']) => name));
  if (!names.delete('all were tried')) throw new Error(`the trespasses were not all tried: ${said}`);
  return names;
}

/** A copy of the installed unit that runs them instead of the service. */
function walled(container: Container): string {
  return container.must(`
    sed -e '/^ExecStart=/d;/^Type=/d;/^Restart/d;/^Watchdog/d;/^StateDirectory=/d;/^RuntimeDirectory/d' /usr/lib/systemd/system/ukeyd.service |
      sed 's|^\\[Service\\]|[Service]\\nType=oneshot\\nExecStart=/usr/local/bin/trespass\\nStandardOutput=file:/run/trespass.out|' > /run/systemd/system/trespass.service
    systemctl daemon-reload
    systemctl start trespass.service
    cat /run/trespass.out
    rm /run/systemd/system/trespass.service`);
}
