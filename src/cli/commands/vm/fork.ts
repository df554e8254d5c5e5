/** `banger fork`: further VMs that begin as one stands now, memory and disks. */

import { fromProblem } from '../../../api/problem.ts';
import type { VmForkResult } from '../../../api/vm.ts';
import { BangerError } from '../../../errors.ts';
import { formatDuration } from '../../../units.ts';
import { defineCommand } from '../../command.ts';
import { perform } from '../../shared/operations.ts';

export default defineCommand({
  positionals: ['name', 'new...'],
  options: {
    count: { type: 'count', short: 'n', help: 'how many, named NEW-1, NEW-2 and so on' },
  },
  completes: { name: ['vm'] },
  description:
    'The VM goes on; a suspended one stays suspended. Each fork has its own name, address, SSH host key, machine ID and random\n' +
    'numbers, and no connection of the VM it began as. What programs hold in memory they keep, secrets included.',
  examples: ['fork web web-test', 'fork web a b c', 'fork web try --count 5'],
  async run(ctx, { args: { name, new: given }, options: { count } }) {
    const names = namesOf(given, count);
    const begun = performance.now();
    const { result } = await perform(ctx, `fork ${name}`, () =>
      ctx.api.call('forkVm', { params: { name }, body: { names } }),
    );
    const { forks, failed, pausedMs } = result as VmForkResult;
    for (const { name: fork, problem } of failed) {
      const error = fromProblem(problem);
      ctx.fail(error.reworded(`${fork}: ${error.message}`));
    }
    for (const fork of forks) ctx.say(`${fork.name} is running at ${fork.address}`);
    const paused = pausedMs === 0 ? '' : `; ${name} stood still for ${formatDuration(pausedMs)}`;
    if (forks.length > 0) ctx.talk(`Forked from ${name} in ${formatDuration(performance.now() - begun)}${paused}.`);
    return forks;
  },
});

function namesOf(given: readonly string[], count: number | undefined): string[] {
  if (count === undefined) return [...given];
  const [prefix] = given;
  if (given.length !== 1 || count < 1) {
    throw new BangerError('invalid_input', '--count takes a number from 1 on, and one name to number.', {
      hint: 'For example: banger fork web try --count 5',
    });
  }
  return Array.from({ length: count }, (_, index) => `${prefix}-${index + 1}`);
}
