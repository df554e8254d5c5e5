/** `banger config check`: what is wrong with the configuration, all of it at once. */
import { formatProblem } from '../../../config/load.ts';
import { checkConfig } from '../../../config/show.ts';
import { defineCommand } from '../../command.ts';

export default defineCommand({
  description: 'The exit status is 2 when banger would refuse the configuration.',
  examples: ['config check'],
  async run(ctx) {
    const report = await checkConfig({ env: ctx.terminal.env, uid: ctx.terminal.uid });
    if (report.problems.length > 0) ctx.status = 2;
    return report;
  },
  print({ files, problems, warnings }, ctx) {
    const found = files.map(({ path, exists }) => `${exists ? 'read' : 'not there'}  ${path}`);
    const texts = [...problems.map(formatProblem), ...warnings.map((warning) => `warning: ${warning}`)];
    const verdict = problems.length === 0 ? ctx.paint('green', 'The configuration is right.') : undefined;
    return [...found, ...texts, verdict].filter((line) => line !== undefined).join('\n');
  },
});
