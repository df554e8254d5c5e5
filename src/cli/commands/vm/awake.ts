/** `banger awake`: keeps a VM from being suspended for a while. */
import { BangerError } from '../../../errors.ts';
import { formatDuration } from '../../../units.ts';
import { defineCommand } from '../../command.ts';

export default defineCommand({
  positionals: ['name'],
  options: {
    for: { type: 'duration', help: 'for how long from now on, e.g. 2h; 0s ends it' },
  },
  completes: { name: ['vm'] },
  description:
    'Until then it counts as used, whatever it does; `banger set NAME --idle-suspend` says when a VM is suspended. One that is ' +
    'suspended goes on.',
  examples: ['awake web --for 2h', 'awake web --for 0s'],
  async run(ctx, { args: { name }, options }) {
    if (options.for === undefined) {
      throw new BangerError('invalid_input', 'How long it is to stay awake is missing.', {
        hint: `banger awake ${name} --for 2h`,
      });
    }
    const vm = await ctx.api.call('awakeVm', { params: { name }, body: { forMs: options.for } });
    if (options.for === 0) ctx.say(`${name} is suspended again when it is idle`);
    else ctx.say(`${name} stays awake for ${formatDuration(options.for)}`);
    if (vm.idleSuspendMs === 0) ctx.talk(`It is not suspended when idle: banger set ${name} --idle-suspend 30m`);
    return vm;
  },
});
