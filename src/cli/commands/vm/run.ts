/** `banger run`: from a name to a running VM, whatever is there already. */
import type { Vm } from '../../../api/vm.ts';
import { formatDuration } from '../../../units.ts';
import { defineCommand } from '../../command.ts';
import { perform } from '../../shared/operations.ts';
import { AUTOSTART_HINT, givenVmFlags, VM_OPTIONS, vmCreateRequest } from '../../shared/vm-options.ts';

export default defineCommand({
  positionals: ['name'],
  completes: { name: ['vm'] },
  options: {
    ...VM_OPTIONS,
    timeout: { type: 'duration', short: 't', help: 'how long the VM may take to answer, e.g. 30s' },
  },
  description: 'Options that describe the VM count only when it is created.',
  examples: ['run web', 'run db --memory 4G --work-disk 50G'],
  async run(ctx, { args: { name }, options }) {
    const begun = performance.now();
    // from the list, so that the result has the same fields whatever there was to do
    const existing = (await ctx.api.call('listVms', {})).find((vm) => vm.name === name);
    if (existing) {
      const ignored = givenVmFlags(options);
      if (ignored.length > 0) ctx.warn(`${name} exists already; ${ignored.join(', ')} changes nothing`);
      if (existing.state === 'running') {
        ctx.say(`${name} is already running at ${existing.address}`);
        return existing;
      }
    } else {
      const body = vmCreateRequest(name, options);
      await perform(ctx, `create ${name}`, () => ctx.api.call('createVm', { body }));
    }
    const timeoutMs = options.timeout;
    const { result } = await perform(ctx, `start ${name}`, () =>
      ctx.api.call('startVm', { params: { name }, body: timeoutMs === undefined ? {} : { timeoutMs } }),
    );
    const vm = result as Vm;
    ctx.say(`${name} is running at ${vm.address} (${formatDuration(performance.now() - begun)})`);
    if (!existing) ctx.talk(`Log in with: banger ssh ${name}`);
    if (!existing && options.autostart) ctx.talk(AUTOSTART_HINT);
    return vm;
  },
});
