"""The page's style: one sheet for desktop, phone, print, light and dark."""

CSS = """
:root{--ink:#1f2933;--soft:#52606d;--paper:#fff;--card:#fff;--line:#d9dee4;--shade:#f3f5f7;
--link:#1d4f91;--warn:#8a4b00;--warnpaper:#fff6e5}
@media (prefers-color-scheme:dark){:root{--ink:#e4e7eb;--soft:#a6b0bb;--paper:#14181d;
--card:#fff;--line:#3a444f;--shade:#1e242b;--link:#8ab8f5;--warn:#f5c26b;--warnpaper:#2b2415}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-padding-top:.5rem}
body{margin:0 auto;padding:1rem;max-width:92rem;color:var(--ink);background:var(--paper);
font:1rem/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
header,main{min-width:0}
h1{font-size:1.7rem;margin:.2rem 0 .6rem}
h2{font-size:1.4rem;margin:2.2rem 0 .6rem;padding-top:.6rem;border-top:2px solid var(--line)}
h3{font-size:1.1rem;margin:1.6rem 0 .5rem}
h1,h2,h3,summary,dd,p,li{overflow-wrap:anywhere}
small{color:var(--soft);font-weight:400}
p,ul{margin:.5rem 0;max-width:48rem}
a{color:var(--link)}
nav{font-size:.95rem;border-bottom:1px solid var(--line)}
nav h2{font-size:1rem;margin:0;padding:0;border:0}
nav ol,nav ul{padding-left:1.2rem;margin:.2rem 0}
nav li{margin:.15rem 0;overflow-wrap:anywhere}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1rem;margin:.5rem 0}
dt{color:var(--soft)}
dd{margin:0;min-width:0}
aside{margin:1rem 0;padding:.2rem 1rem .5rem;background:var(--warnpaper);
border:1px solid var(--warn);border-left-width:.4rem;border-radius:.3rem}
aside h3{margin:.5rem 0;color:var(--warn);font-size:1rem}
aside ul{padding-left:1.1rem}
.scroll,.chart,pre{overflow-x:auto;-webkit-overflow-scrolling:touch}
.scroll{border:1px solid var(--line);border-radius:.3rem;width:fit-content;max-width:100%}
:focus-visible{outline:2px solid var(--link);outline-offset:2px}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.92rem}
caption{text-align:left;padding:.4rem .7rem;color:var(--soft)}
th,td{padding:.3rem .7rem;text-align:right;vertical-align:top;border-top:1px solid var(--line)}
td{white-space:pre}
td.words{white-space:pre-line;text-align:left;min-width:16rem}
thead th{background:var(--shade);vertical-align:bottom}
th:first-child{text-align:left}
th[scope=row]{font-weight:400;white-space:pre-line;position:sticky;left:0;background:var(--paper);
min-width:9rem;max-width:22rem;overflow-wrap:break-word}
tfoot th,tfoot td{border-top:2px solid var(--soft)}
.note{font-size:.88rem;color:var(--soft)}
figure{margin:1.2rem 0}
.chart{background:var(--card);border:1px solid var(--line);border-radius:.3rem;padding:.5rem;
width:fit-content;max-width:100%}
.chart svg{display:block;max-width:100%;height:auto}
.chart svg *{stroke-linejoin:round;stroke-linecap:butt}
figcaption{margin-top:.4rem;max-width:48rem}
pre{background:var(--shade);border:1px solid var(--line);border-radius:.3rem;padding:.5rem .7rem;
font-size:.85rem;white-space:pre-wrap;overflow-wrap:anywhere}
code{font-family:ui-monospace,"SFMono-Regular",Menlo,Consolas,"DejaVu Sans Mono",monospace}
details{border:1px solid var(--line);border-radius:.3rem;margin:.5rem 0}
details>div{padding:0 .8rem .4rem}
summary{cursor:pointer;padding:.4rem .8rem}
@media (min-width:70rem){body{display:grid;grid-template-columns:13rem minmax(0,1fr);
column-gap:2rem}header,main{grid-column:2}
nav{grid-column:1;grid-row:1/span 2;position:sticky;top:1rem;align-self:start;
max-height:calc(100vh - 2rem);overflow-y:auto;border:0}}
@media (max-width:40rem){body{padding:.7rem}th,td{padding:.3rem .5rem}
th[scope=row]{min-width:7.5rem;max-width:45vw;font-size:.8rem}dl{grid-template-columns:1fr;gap:0}
dd{margin-bottom:.4rem}}
@media print{:root{--ink:#000;--soft:#333;--paper:#fff;--card:#fff;--line:#999;--shade:#fff;
--link:#000;--warn:#000;--warnpaper:#fff}
body{display:block;max-width:none;padding:0;font-size:10pt}
nav{position:static;max-height:none}
.scroll,.chart,pre{overflow:visible;border:0}
.chart svg{min-width:0!important}
table{font-size:8pt}td{white-space:pre-line}
figure,tr,aside{break-inside:avoid}h2,h3{break-after:avoid}
details::details-content{content-visibility:visible;display:block;height:auto}}
"""
