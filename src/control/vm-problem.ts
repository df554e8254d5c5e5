/** What is wrong with a VM that runs, in a sentence for people: seen at the moment when somebody asks. */
import { tapName, type VmRecord } from '../core/vm.ts';
import { tapExists } from '../network/tap.ts';
import { haltedBy } from '../system/processes.ts';
import type { Host } from './host.ts';

/** Null when nothing is, or the VM does not run. */
export async function problemOf(host: Pick<Host, 'ledger' | 'health'>, vm: VmRecord): Promise<string | null> {
  if (vm.phase !== 'running') return null;
  const resources = host.ledger.of(vm.id);
  const vmm = resources.find((resource) => resource.kind === 'vmm');
  const pid = vmm?.kind === 'vmm' ? vmm.identity?.pid : undefined;
  const halted = pid === undefined ? undefined : await haltedBy(pid);
  if (halted !== undefined) {
    return `Its VMM is halted (process ${halted} got SIGSTOP). Let it go on with: kill -CONT ${halted}   or end it with: banger kill ${vm.name}`;
  }
  const tap = tapName(vm.id);
  if (resources.some(({ kind }) => kind === 'tap') && !(await tapExists(tap))) {
    return `Its network device ${tap} was deleted, so it has no network. Bring it back with: banger restart ${vm.name}`;
  }
  if (host.health.silent.has(vm.id)) {
    return `Its VMM does not answer. See: banger logs ${vm.name} --vmm   or end it with: banger kill ${vm.name}`;
  }
  return null;
}
