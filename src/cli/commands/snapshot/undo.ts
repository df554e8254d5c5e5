/** `banger snapshot undo`: what was there before the last restore. */
import type { Restored } from '../../../api/snapshot.ts';
import { defineCommand } from '../../command.ts';
import { perform } from '../../shared/operations.ts';
import { RESTORE_OPTIONS, restoreRequest, undoCommand } from '../../shared/snapshot-options.ts';

export default defineCommand({
  positionals: ['name'],
  options: RESTORE_OPTIONS,
  completes: { name: ['vm'] },
  description: 'It copies nothing: the disks change places. What is there now is what a second undo puts back.',
  examples: ['snapshot undo web', 'snapshot undo web --force'],
  async run(ctx, { args: { name }, options }) {
    const { result } = await perform(ctx, `undo ${name}`, () =>
      ctx.api.call('undoRestore', { params: { name }, body: restoreRequest(options) }),
    );
    const restored = result as Restored;
    ctx.say(`${name} is as it was before the last restore${restored.vm.state === 'running' ? ', and runs' : ''}`);
    ctx.talk(`What was there is ${restored.before}; have it back with: ${undoCommand(restored)}`);
    return restored;
  },
});
