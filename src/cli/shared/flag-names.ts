/** How fields of the API's bodies are written on the command line. */
import type { BangerError } from '../../errors.ts';

/** Fields that describe a VM. */
export const VM_FLAGS: Readonly<Record<string, string>> = {
  image: '--image',
  vcpus: '--vcpus',
  memoryMib: '--memory',
  rootDiskBytes: '--disk',
  workDiskBytes: '--work-disk',
  workMount: '--work-mount',
  workDiskFrom: '--work-disk-from',
  nat: '--no-nat',
  autostart: '--autostart',
  restartPolicy: '--restart',
  idleSuspendMs: '--idle-suspend',
  userData: '--user-data',
  metaData: '--meta-data',
  process: '--entrypoint, --cmd, --env, --user, --workdir',
};

const UNITS: Readonly<Record<string, string>> = {
  memoryMib: ' (in MiB)',
  rootDiskBytes: ' (in bytes)',
  workDiskBytes: ' (in bytes)',
};

/** A refusal of the daemon in the words of the command line: it begins every sentence with the field. */
export function inFlags(error: BangerError): BangerError {
  const message = error.message.replace(/(^|; )(\w+) (?=must |is )/g, (whole, before: string, field: string) => {
    const flag = Object.hasOwn(VM_FLAGS, field) ? VM_FLAGS[field] : undefined;
    return flag === undefined ? whole : `${before}${flag}${UNITS[field] ?? ''} `;
  });
  if (message === error.message) return error;
  return error.reworded(message);
}
