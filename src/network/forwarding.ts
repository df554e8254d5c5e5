/** Lets the host forward packets of single devices; the global switch is left as it was found. */
import { readFile, writeFile } from 'node:fs/promises';
import { systemCode } from '../errors.ts';
import type { Privileged } from '../system/privilege.ts';

/**
 * What a device's switch is set to while VMs need it. Any number but 0 is on to the kernel, and people and programs write
 * 1: so every banger of the host can tell what to put back, and what somebody else wanted since.
 */
export const LENT = '2';

/** Name of the setting in `sysctl`'s own spelling with slashes, which survives dots in device names. */
export function forwardingSetting(device: string): string {
  return `net/ipv4/conf/${device}/forwarding`;
}

/** Value of a kernel setting; undefined when it does not exist, e.g. because its device is gone. */
export async function readSetting(name: string): Promise<string | undefined> {
  try {
    return (await readFile(`/proc/sys/${name}`, 'utf8')).trim();
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw error;
  }
}

/**
 * Sets a kernel setting: directly where this process has the right to, by `sysctl -w` through sudo otherwise.
 * @param absent what to make of a setting that does not exist: an error unless `if-present`
 */
export async function writeSetting(
  privileged: Privileged,
  sysctl: string,
  name: string,
  value: string,
  absent: 'error' | 'if-present' = 'error',
): Promise<void> {
  const before = await readSetting(name);
  if (before === value || (before === undefined && absent === 'if-present')) return;
  try {
    if (await written(name, value)) return;
    await privileged.run([sysctl, '-q', '-w', `${name}=${value}`]);
  } catch (error) {
    // devices come and go while they are looked at
    if (absent === 'if-present' && (await readSetting(name)) === undefined) return;
    throw error;
  }
}

async function written(name: string, value: string): Promise<boolean> {
  try {
    await writeFile(`/proc/sys/${name}`, value);
    return true;
  } catch (error) {
    if (['EACCES', 'EPERM'].includes(systemCode(error) ?? '')) return false;
    throw error;
  }
}
