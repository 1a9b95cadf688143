// Owns: the one page that the server shows to a person with a browser: its tokens. No script, no form, no link out; every text is escaped.
import type { TokenView } from '#ipc-schema/upstream.ts';

const escapes: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };

export function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (char) => escapes[char] ?? '');
}

const style = `body{font:15px/1.5 system-ui,sans-serif;margin:2rem;color:#222}table{border-collapse:collapse}
th,td{padding:.3rem .8rem;border-bottom:1px solid #ccc;text-align:left}td.count{text-align:right;font-variant-numeric:tabular-nums}
code{font-size:13px}.alarm{color:#a00;font-weight:600}`;

const alarmText = (alarm: TokenView['alarm']): string => (alarm === null ? '' : `${alarm.raisedAt}: ${alarm.detail}`);

export function tokensPage(tokens: readonly TokenView[], isWhole: boolean): string {
  const rows = tokens.map(
    (token) =>
      `<tr><td><code>${escapeHtml(token.tokenId)}</code></td><td>${escapeHtml(token.serial)}</td><td>${escapeHtml(token.issuer)}</td>` +
      `<td class="count">${token.invoices}</td><td class="count">${token.lastSequence}</td><td class="count">${token.upToBatch}</td>` +
      `<td>${escapeHtml(token.lastContact ?? 'never')}</td><td class="alarm">${escapeHtml(alarmText(token.alarm))}</td></tr>`,
  );
  const body =
    rows.length === 0
      ? '<p>No token is enrolled yet.</p>'
      : `<table><thead><tr><th>Token</th><th>Serial</th><th>Issuer</th><th>Invoices</th><th>Last sequence</th><th>Batches</th><th>Last contact</th>` +
        `<th>Alarm</th></tr></thead><tbody>${rows.join('\n')}</tbody></table>${isWhole ? '' : '<p>There are more: see /v1/tokens.</p>'}`;
  return `<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Tickets</title><style>${style}</style></head><body><h1>Tokens</h1>\n${body}\n</body></html>\n`;
}
