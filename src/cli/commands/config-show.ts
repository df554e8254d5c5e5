/** `banger config show`: every setting, its value, and where that comes from. */
import { loadConfig } from '../../config/load.ts';
import { showConfig } from '../../config/show.ts';
import { defineCommand } from '../command.ts';
import { renderTable } from '../output/table.ts';

export default defineCommand({
  description: 'Values of files are shown with file and line. What is unset is decided when it is needed.',
  examples: ['config show', 'config show --json | jq \'.[] | select(.source == "file")\''],
  async run(ctx) {
    const loaded = await loadConfig({ env: ctx.host.env, uid: ctx.host.uid });
    for (const warning of loaded.warnings) ctx.warn(warning);
    return showConfig(loaded);
  },
  print(settings, ctx) {
    const rows = settings.map(({ key, value, source, where }) => [key, value ?? '-', where ?? source]);
    return renderTable(['SETTING', 'VALUE', 'FROM'], rows, ctx.paint);
  },
});
