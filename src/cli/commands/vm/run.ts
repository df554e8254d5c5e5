/** `banger run`: from a name to a running VM, whatever is there already. */
import type { Bundle } from '../../../api/bundle.ts';
import type { Vm, VmRunResult } from '../../../api/vm.ts';
import { BangerError } from '../../../errors.ts';
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
    build: { type: 'off', help: 'make no bundle where there is none yet' },
  },
  description:
    'Options that describe the VM count only when it is created. Where there is no bundle yet, the first one is made before, ' +
    'from Debian packages.',
  examples: ['run web', 'run db --memory 4G --work-disk 50G'],
  async run(ctx, { args: { name }, options }) {
    const { name: _, ...described } = vmCreateRequest(name, options);
    const body = { ...described, ...startRequest(options) };
    const begin = () => perform(ctx, `run ${name}`, () => ctx.api.call('runVm', { params: { name }, body }));
    const { result } = await begin().catch(async (error) => {
      if (options.build || !lacksFirstBundle(error)) throw error;
      ctx.talk(
        'There is no bundle yet, which VMs boot from. Making one from Debian packages first; this takes some minutes.',
      );
      const { result: bundle } = await perform(ctx, 'bundle build', () => ctx.api.call('buildBundle', { body: {} }));
      ctx.talk(`${(bundle as Bundle).name} is ready in ${(bundle as Bundle).directory}`);
      return await begin();
    });
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

/** Whether this banger has no bundle at all, so that the first one would be the default. */
function lacksFirstBundle(error: unknown): boolean {
  return error instanceof BangerError && error.code === 'not_found' && error.details?.bundles === 0;
}
