/** `banger run`: from a name to a running VM, whatever is there already. */
import type { Vm, VmRunResult } from '../../../api/vm.ts';
import { defineCommand } from '../../command.ts';
import { perform } from '../../shared/operations.ts';
import { START_OPTIONS, settled, startRequest, startTimes } from '../../shared/start-options.ts';
import { AUTOSTART_HINT, givenVmFlags, VM_OPTIONS, vmCreateRequest } from '../../shared/vm-options.ts';

export default defineCommand({
  positionals: ['name'],
  completes: { name: ['vm'] },
  options: {
    ...VM_OPTIONS,
    ...START_OPTIONS,
  },
  description: 'Options that describe the VM count only when it is created.',
  examples: ['run web', 'run db --memory 4G --work-disk 50G'],
  async run(ctx, { args: { name }, options }) {
    const { name: _, ...described } = vmCreateRequest(name, options);
    const body = { ...described, ...startRequest(options) };
    const { result } = await perform(ctx, `run ${name}`, () => ctx.api.call('runVm', { params: { name }, body }));
    // without the last two where another client had begun to start it
    const { created = false, started = true, ...reached } = result as Vm & Partial<VmRunResult>;
    const vm = started ? await settled(ctx, reached, options.until, options.timeout) : reached;
    const ignored = created ? [] : givenVmFlags(options);
    if (ignored.length > 0) ctx.warn(`${name} exists already; ${ignored.join(', ')} changes nothing`);
    if (started) ctx.say(`${name} is running at ${vm.address} (${startTimes(vm)})`);
    else ctx.say(`${name} is already running at ${vm.address}`);
    if (created) ctx.talk(`Log in with: banger ssh ${name}`);
    if (created && options.autostart) ctx.talk(AUTOSTART_HINT);
    return vm;
  },
});
