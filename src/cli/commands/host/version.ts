/** `banger version`: of this program and of the daemon, when one runs. */
import { VERSION } from '../../../version.ts';
import { defineCommand } from '../../command.ts';
import { renderFields } from '../../output/table.ts';
import { ifRunning } from '../../shared/if-running.ts';

export default defineCommand({
  examples: ['version', 'version --json'],
  async run(ctx) {
    const status = await ifRunning(ctx.runningApi.call('status', {}));
    return { banger: VERSION, daemon: status?.version ?? null };
  },
  print({ banger, daemon }, ctx) {
    const fields: [string, string][] = [
      ['banger', banger],
      ['daemon', daemon ?? 'not running'],
    ];
    return renderFields(fields, ctx.paint);
  },
});
