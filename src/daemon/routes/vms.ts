/** Handlers for VMs. */
import type { Host } from '../../control/host.ts';
import { awaken } from '../../control/vm/awaken.ts';
import { createVm } from '../../control/vm/create.ts';
import { writeKnownHosts } from '../../control/vm/known-hosts.ts';
import type { Life } from '../../control/vm/life.ts';
import { requireRunning } from '../../control/vm/problem.ts';
import { terminalFor } from '../../control/vm/terminal.ts';
import { viewVm, viewVmDetail, viewVmNow } from '../../control/vm/view.ts';
import { BangerError } from '../../errors.ts';
import { GUEST_SSH_PORT, GUEST_USER } from '../../guest/ssh.ts';
import type { Handlers } from '../server.ts';
import { replyVmLog } from '../vm-log.ts';

type VmHandlers = Pick<
  Handlers,
  | 'listVms'
  | 'createVm'
  | 'showVm'
  | 'runVm'
  | 'startVm'
  | 'stopVm'
  | 'suspendVm'
  | 'resumeVm'
  | 'forkVm'
  | 'awakeVm'
  | 'killVm'
  | 'restartVm'
  | 'rebaseVm'
  | 'deleteVm'
  | 'sshAccess'
  | 'logs'
  | 'exec'
>;

/** Clients give up on an answer after two minutes, and would not know why. */
const WAIT_LIMIT_MS = 100_000;

export function vmHandlers(host: Host, life: Life): VmHandlers {
  const { operations } = host;
  const { vms } = host.stores;
  return {
    listVms: async () => await Promise.all(vms.list().map((vm) => viewVmNow(host, vm))),
    showVm: async ({ params }) => await viewVmDetail(host, vms.get(params.name)),
    createVm: async ({ body }) =>
      operations.start({
        kind: 'vm.create',
        target: body.name,
        run: async (progress, signal) => viewVm(host, await createVm(host, body, progress, signal)),
      }),
    runVm: async ({ params: { name }, body }) => life.run(name, body),
    startVm: async ({ params: { name }, body }) => life.start(name, body),
    stopVm: async ({ params: { name }, body }) => life.stop(name, body),
    suspendVm: async ({ params: { name } }) => life.suspend(name),
    resumeVm: async ({ params: { name } }) => life.resume(name),
    forkVm: async ({ params: { name }, body: { names } }) => life.fork(name, names),
    awakeVm: async ({ params: { name }, body: { forMs }, signal }) => {
      const { id } = vms.get(name);
      // first: it must not be suspended again before that counts
      const until = forMs === 0 ? null : new Date(host.now().getTime() + forMs).toISOString();
      vms.update(id, { awakeUntil: until });
      if (until !== null) await awaken(host, life, id, { signal, limitMs: WAIT_LIMIT_MS });
      return await viewVmNow(host, vms.get(name));
    },
    killVm: async ({ params: { name } }) => await life.kill(name),
    restartVm: async ({ params: { name }, body }) => life.restart(name, body),
    rebaseVm: async ({ params: { name }, body }) => life.rebase(name, body),
    deleteVm: async ({ params: { name }, query: { force = false, now = false, keepWorkDisk = false } }) =>
      life.delete(name, { force, now, keepWorkDisk }),
    sshAccess: async ({ params: { name }, query: { term }, signal }) => {
      const { id } = vms.get(name);
      await awaken(host, life, id, { signal, limitMs: WAIT_LIMIT_MS });
      const vm = vms.findById(id) ?? vms.get(name);
      requireRunning(vm);
      await host.checks.beforeLogin('ssh');
      const { file, alias } = await writeKnownHosts(host, vm);
      return {
        user: GUEST_USER,
        address: vm.address,
        port: GUEST_SSH_PORT,
        identityFile: host.guests.keyFile,
        knownHostsFile: file,
        hostKeyAlias: alias,
        term: term === undefined ? null : await terminalFor(host, vm, term),
      };
    },
    logs: async ({ params, query, reply, signal }) =>
      await replyVmLog(host, vms.get(params.name).id, query, reply, signal),
    exec: async () => {
      throw new BangerError('invalid_input', 'A command runs on an upgraded connection.', {
        hint: 'Send `Connection: Upgrade` and `Upgrade: banger-exec`, or use: banger exec NAME -- COMMAND',
      });
    },
  };
}
