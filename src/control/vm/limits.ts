/** What this host cannot give any VM. */
import { totalmem } from 'node:os';
import { BangerError } from '../../errors.ts';
import { MIB } from '../../units.ts';

/** @throws BangerError `invalid_input` when the host has less memory than asked for */
export function requireHostMemory(name: string, memoryMib: number): void {
  const hostMib = Math.floor(totalmem() / MIB);
  if (memoryMib <= hostMib) return;
  throw new BangerError(
    'invalid_input',
    `${name} cannot have ${memoryMib} MiB of memory: this host has ${hostMib} MiB.`,
    { hint: `Ask for less, for example --memory ${Math.max(128, Math.floor(hostMib / 2))}M` },
  );
}
