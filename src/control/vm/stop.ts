/** Stops a VM: asks the guest first, makes sure afterwards. */

import { UDEV_GOES_FIRST } from '../../core/boot-words.ts';
import type { VmRecord } from '../../core/vm.ts';
import { stopped, stopping } from '../../core/vm-changes.ts';
import { messageOf } from '../../errors.ts';
import { connectVmm } from '../../firecracker/api.ts';
import { action } from '../../firecracker/requests.ts';
import { runScript } from '../../guest/run-script.ts';
import type { SshConnection } from '../../guest/ssh.ts';
import { sleep } from '../../system/abort.ts';
import { letGoOn, waitForEnd } from '../../system/processes.ts';
import { trimDisks } from '../disks/disk-work.ts';
import type { Host } from '../host.ts';
import type { Progress } from '../operations.ts';
import { findVmmOf, vmmSocketOf } from '../vmm.ts';
import { letVmGoOn } from './pause.ts';
import { releaseVm } from './release.ts';

/**
 * Ends the VMM of a guest that has shut down. Reboot, not poweroff: on x86 a guest that powers off leaves
 * Firecracker running with halted CPUs, while a reset ends it. systemd is asked itself: `systemctl reboot` asks logind
 * first, which a guest that was ready a moment ago still starts, and which has a say only while somebody holds a lock
 * of it. Devices that are still looked at are of no matter any more where nothing needs them. A systemd that has not opened its socket yet, and every other init, takes SIGINT, which is what the kernel sends
 * it for Ctrl-Alt-Del.
 */
const SHUTDOWN_SCRIPT = `go_down() {
for lock in /run/systemd/inhibit/*; do [ -e "$lock" ] || continue; systemctl reboot --no-block; return; done
systemctl start --no-block --job-mode=replace-irreversibly reboot.target || return
[ -e /run/udev/queue ] && [ -e ${UDEV_GOES_FIRST} ] || return 0
for unit in systemd-udev-trigger systemd-udevd; do
echo 1 > /sys/fs/cgroup/system.slice/$unit.service/cgroup.kill
done
return 0
}
go_down 2>/dev/null || kill -INT 1`;

/** Said by the script itself: that a channel was opened proves no more than a login shell, which may end at once. */
const HEARD = 'banger: going down';

/** An answering guest runs a script in well under a second. */
const ASK_TIMEOUT_MS = 5000;

/**
 * Stops a running VM; one that does not run is brought to `stopped` and nothing else happens.
 * @param timeoutMs what the guest gets to shut down before its VMM is killed; 0 kills at once
 */
export async function stopVm(
  host: Host,
  name: string,
  timeoutMs: number,
  progress: Progress,
  signal: AbortSignal,
): Promise<VmRecord> {
  const vm = host.stores.vms.get(name);
  const vmm = await findVmmOf(host, vm);
  host.stores.vms.update(vm.id, stopping());
  try {
    if (vmm && timeoutMs > 0) {
      // a guest that stands still cannot shut down
      await letGoOn(vmm.pid);
      if (vm.paused !== null) {
        await letVmGoOn(host, vm).catch((error) => progress.warn(`${name} stays paused: ${messageOf(error)}`));
      }
      progress.step('ask-guest', 'asking the guest to shut down');
      await askGuest(host, vm, progress);
      progress.step('wait-for-guest', 'waiting for the guest to shut down');
      if (!(await waitForEnd(vmm, timeoutMs, signal))) {
        progress.warn(`${name} did not shut down within ${Math.round(timeoutMs / 1000)} s and was cut off.`);
      }
    }
  } catch (error) {
    // called off while the guest shuts down: it cannot be un-asked, so the stop is finished the hard way below
    if (!signal.aborted) throw error;
  }
  progress.step('release', 'freeing its network and process');
  await releaseVm(host, vm);
  if (vmm && timeoutMs > 0) await trimDisks(host, vm, progress, signal);
  host.stores.vms.update(vm.id, stopped());
  return host.stores.vms.get(name);
}

/** Over the open SSH connection when there is one, and by Ctrl-Alt-Del: a guest that knows either goes down. */
export async function askGuest(
  host: Pick<Host, 'config' | 'guests' | 'stores' | 'system'>,
  vm: VmRecord,
  progress: Pick<Progress, 'warn'>,
): Promise<void> {
  const connection = host.guests.peek(vm);
  if (connection && (await heardOverSsh(connection))) return;
  try {
    await using api = connectVmm(vmmSocketOf(host, vm.id));
    await api.send(action('SendCtrlAltDel'));
  } catch (error) {
    progress.warn(`${vm.name} could not be asked to shut down: ${messageOf(error)}`);
  }
}

async function heardOverSsh(connection: SshConnection): Promise<boolean> {
  const script = `echo '${HEARD}'; ${SHUTDOWN_SCRIPT}`;
  // the channel is opened without a limit of its own
  const asked = runScript(connection, script, ASK_TIMEOUT_MS).then(({ output }) => output.includes(HEARD));
  return await Promise.race([asked, sleep(ASK_TIMEOUT_MS).then(() => false)]).catch(() => false);
}
