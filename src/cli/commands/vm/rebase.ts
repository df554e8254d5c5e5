/** `banger vm rebase`: a new root disk under the same work disk, undone when it does not come up. */
import type { Vm } from '../../../api/vm.ts';
import { BangerError } from '../../../errors.ts';
import { defineCommand } from '../../command.ts';
import { perform } from '../../shared/operations.ts';
import { START_OPTIONS, startRequest, startTimes } from '../../shared/start-options.ts';

export default defineCommand({
  positionals: ['name'],
  options: {
    image: {
      type: 'text',
      short: 'i',
      placeholder: 'name',
      completes: ['image', 'bundle'],
      help: 'image or bundle the new root disk is made from',
    },
    force: { type: 'flag', short: 'f', help: 'stop the VM first when it runs' },
    start: { type: 'off', help: 'leave it stopped, without seeing whether it comes up' },
    ...START_OPTIONS,
  },
  completes: { name: ['vm'] },
  description:
    'What was on the root disk is gone afterwards; the work disk, the name, the address and the host keys stay. ' +
    'When SSH does not come up, the VM gets its old root disk back. The image it has already starts it afresh.',
  examples: ['vm rebase web --image dev', 'rebase web -i dev --force', 'rebase web --image dev --no-start'],
  async run(ctx, { args: { name }, options }) {
    const { image, force, start: noStart } = options;
    if (image === undefined) {
      throw new BangerError('invalid_input', 'The new root disk is made from an image: --image is missing.', {
        hint: 'See what there is: banger image list   and: banger bundle list',
      });
    }
    const body = {
      image,
      ...(force ? { force } : {}),
      ...(noStart ? { start: false } : {}),
      ...startRequest(options),
    };
    const { result } = await perform(ctx, `rebase ${name}`, () => ctx.api.call('rebaseVm', { params: { name }, body }));
    const vm = result as Vm;
    if (vm.state === 'running') ctx.say(`${name} is running with ${vm.image} at ${vm.address} (${startTimes(vm)})`);
    else ctx.say(`${name} has the root disk of ${vm.image}; start it with: banger start ${name}`);
    return vm;
  },
});
