// Owns: facts of the machine for the log, and what is plugged in on its USB side; the only door to systeminformation.
// Invariants: it runs shell commands, so it is asked after the service is ready, and while a token is missed, never on a till's path; what cannot be told is left
// out. Names come from the devices themselves: they are shortened, and hold printable ASCII only.

export interface MachineFacts {
  readonly system: string;
  readonly kernel: string;
  readonly cores: number;
  readonly memoryBytes: number;
  /** USB devices that the system shows, by name. */
  readonly usb: string;
}

/** What a token could be, by name: its KEY is a smart card, its FLASH a storage. */
export interface UsbSight {
  readonly smartCards: readonly string[];
  readonly storage: readonly string[];
}

/** How long a look at the USB side may take. */
const usbWaitMs = 5_000;
const namesMax = 4;
const nameMaxChars = 60;

/** Loaded when it is asked: no start waits for it. */
const load = async () => (await import('systeminformation')).default;

export async function machineFacts(): Promise<MachineFacts> {
  const si = await load();
  const [os, cpu, memory, usb] = await Promise.all([si.osInfo(), si.cpu(), si.mem(), si.usb()]);
  const names = usb.map((device) => device.name).filter((name) => typeof name === 'string' && name !== '');
  return {
    system: `${os.distro} ${os.release}`,
    kernel: os.kernel,
    cores: cpu.cores,
    memoryBytes: memory.total,
    usb: names.slice(0, 16).join(', '),
  };
}

/** Null: the system does not tell, or not in time. Only Linux tells smart cards apart, by `lsusb`. */
export async function lookAtUsb(waitMs: number = usbWaitMs): Promise<UsbSight | null> {
  if (process.platform !== 'linux') return null;
  const late = Promise.withResolvers<null>();
  const timer = setTimeout(() => late.resolve(null), waitMs);
  try {
    const devices = await Promise.race([load().then((si) => si.usb()), late.promise]);
    return devices === null ? null : sightOf(devices);
  } finally {
    clearTimeout(timer);
  }
}

type UsbDevice = Partial<Record<'type' | 'name' | 'manufacturer' | 'vendor', unknown>>;

/** Null: a list without a single device, not even a hub, says nothing. */
export function sightOf(devices: readonly UsbDevice[]): UsbSight | null {
  if (devices.length === 0) return null;
  const named = (pattern: RegExp): string[] =>
    devices
      .filter(({ type }) => typeof type === 'string' && pattern.test(type))
      .slice(0, namesMax)
      .map(nameOf);
  return { smartCards: named(/smart ?card/i), storage: named(/storage/i) };
}

function nameOf({ name, manufacturer, vendor }: UsbDevice): string {
  for (const text of [name, manufacturer, vendor]) {
    const printable = typeof text === 'string' ? text.replace(/[^\x20-\x7e]/g, '').trim() : '';
    if (printable !== '') return printable.slice(0, nameMaxChars);
  }
  return 'without a name';
}
