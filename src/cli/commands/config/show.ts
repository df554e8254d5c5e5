/** `banger config show`: every setting, its value, and where that comes from. */
import { loadConfig } from '../../../config/load.ts';
import type { VmConfig } from '../../../config/schema.ts';
import { showConfig } from '../../../config/show.ts';
import { asBangerError } from '../../../errors.ts';
import { defineCommand } from '../../command.ts';
import type { Context } from '../../context.ts';
import { renderTable } from '../../output/table.ts';

export default defineCommand({
  description: 'Values of files are shown with file and line. What is unset is decided when it is needed.',
  options: { origin: { type: 'flag', help: 'also show where each value comes from' } },
  examples: ['config show', 'config show --origin', 'config show --json | jq \'.[] | select(.source == "file")\''],
  async run(ctx) {
    const loaded = await loadConfig({ env: ctx.terminal.env, uid: ctx.terminal.uid });
    for (const warning of loaded.warnings) ctx.warn(warning);
    return showConfig(loaded, await bundleDefaults(ctx));
  },
  print(settings, ctx, { origin }) {
    const rows = settings.map(({ key, value, source, where }) => [
      key,
      value ?? '-',
      ...(origin ? [where ?? source] : []),
    ]);
    return renderTable(['SETTING', 'VALUE', ...(origin ? ['FROM'] : [])], rows, ctx.paint);
  },
});

/** What the bundle in use says of new VMs; only the daemon can tell, and a configuration is worth showing without it. */
async function bundleDefaults({ api, warn }: Context): Promise<VmConfig> {
  try {
    return (await api.call('showBundle', {})).defaults;
  } catch (error) {
    const { code, message } = asBangerError(error);
    if (code !== 'not_found') warn(`what the bundle says of new VMs is not shown: ${message}`);
    return {};
  }
}
