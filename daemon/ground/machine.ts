// Owns: facts of the machine for the log; the only door to systeminformation.
// Invariants: it runs shell commands, so it is asked once, after the service is ready, and never on a till's path; what cannot be told is left out.
import si from 'systeminformation';

export interface MachineFacts {
  readonly system: string;
  readonly kernel: string;
  readonly cores: number;
  readonly memoryBytes: number;
  /** USB devices that the system shows, by name. */
  readonly usb: string;
}

export async function machineFacts(): Promise<MachineFacts> {
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
