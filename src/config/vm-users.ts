/** Which users the programs of VMs run as on this host. */
import { readFile } from 'node:fs/promises';
import { DEFAULT_USERS, isMapped, NO_VM_USERS, parseUserRange, SMALL_USERS, type VmUsers } from '../core/vm-users.ts';
import { groupOfDevice } from '../system/confinement.ts';
import type { Config } from './schema.ts';

/**
 * @param uid user of the daemon: only root starts programs as others
 * @param kvmDevice `/dev/kvm` except in tests
 */
export async function findVmUsers(
  { privilege }: Pick<Config, 'privilege'>,
  uid: number,
  kvmDevice = '/dev/kvm',
): Promise<VmUsers> {
  const setting = privilege.vmUsers;
  if (uid !== 0 || setting === 'none') return NO_VM_USERS;
  const wanted = setting === 'auto' ? [DEFAULT_USERS, SMALL_USERS] : [parseUserRange(setting)];
  const map = await readFile('/proc/self/uid_map', 'utf8');
  const range = wanted.find((each) => isMapped(map, each));
  return range ? { range, kvmGroup: await groupOfDevice(kvmDevice) } : NO_VM_USERS;
}
