/** The known_hosts file for the system's own ssh: every VM's key, made by us, so strict checking always holds. */
import { join } from 'node:path';
import type { VmRecord } from '../../core/vm.ts';
import { knownHosts } from '../../guest/keys.ts';
import { writeFileAtomic } from '../../system/files.ts';
import type { Host } from '../host.ts';

/** Written anew on each request: VMs come and go, and the file is a few hundred bytes. */
export async function writeKnownHosts(host: Host, vm: Pick<VmRecord, 'id'>): Promise<{ file: string; alias: string }> {
  const file = join(host.config.paths.state, 'ssh', 'known_hosts');
  const { zone } = host.config.dns;
  const entries = host.stores.vms.list().map((each) => {
    // by name for the ssh that `banger ssh-config` sets up, which knows nothing but names
    const names = [`${each.name}.${zone}`, `*.${each.name}.${zone}`];
    return { alias: [hostKeyAlias(each), ...names].join(','), hostKeyPublic: each.hostKeyPublic };
  });
  await writeFileAtomic(file, knownHosts(entries));
  return { file, alias: hostKeyAlias(vm) };
}

/** By id: a name may pass to another VM, whose key is another one. */
function hostKeyAlias({ id }: Pick<VmRecord, 'id'>): string {
  return `banger-${id}`;
}
